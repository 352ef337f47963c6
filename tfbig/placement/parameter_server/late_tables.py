"""Tables of a checkpoint, which parameter servers write while training goes on."""

import concurrent.futures
import os
import threading
from collections.abc import Callable

import tensorflow as tf

from tfbig.layers.sharded_tables import shard_of
from tfbig.placement.parameter_server.remote import run_remotely

_AT_ONCE = 8  # variables that are read at the same time: latency is the cost, not bytes


def copy_to_host(variables: dict) -> dict[str, tf.Variable]:
    """Copies variables to this process.

    Args:
        variables: name to variable.
    """
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        values = list(threads.map(lambda variable: variable.numpy(), variables.values()))
    with tf.device("CPU:0"):
        made = [tf.Variable(value, trainable=False) for value in values]
    return dict(zip(variables, made, strict=True))


class LateTables:
    """Has the ps write the shards of ShardedEmbeddings and their slots, in a thread of the chief.

    Args:
        consistent: the tables are copied before training continues, so that all of them are of
            one step. False: a ps copies a shard when it writes it, while workers update it. Then
            nobody waits, and at most one copy is in memory, but a row may be of a later step than
            the checkpoint's, like the rows that asynchronous workers read.
    """

    def __init__(self, consistent: bool):
        self._consistent = consistent
        self._writers: dict[str, Callable] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def deferred_variables(self, variables: dict) -> dict:
        """The variables that are written while training continues, or copies of them, by name."""
        late = {n: v for n, v in variables.items() if shard_of(v)}
        if not self._consistent:
            return late
        copies = {}
        for name, variable in late.items():
            with tf.device(variable.device):
                copies[name] = variable.read_value()  # later assignments do not change it
                copies[name][:1].numpy()  # waits for the copy
        return copies

    def start(self, complete: Callable[[], None]) -> None:
        """Starts `complete`, which calls `write`, in a thread; `wait` raises its errors."""

        def run() -> None:
            try:
                complete()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="tfbig-checkpoint", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether tables are being written now."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> None:
        """Waits for the thread that `start` has started, and raises its error if there was one.

        Args:
            timeout: seconds; None: no limit.
        """
        if self._thread is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            return
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def write(self, folder: str, tensors: dict) -> list[str]:
        """Writes tensors, by their names in the checkpoint; returns the prefixes of their files.

        Args:
            folder: on a file system that this task and the ps share.
            tensors: name to variable or tensor.
        """
        prefixes = []
        for name, tensor in tensors.items():
            prefixes.append(os.path.join(folder, f"late-{len(prefixes)}"))
            self._write(prefixes[-1], name, tensor)
        return prefixes

    def _write(self, prefix: str, name: str, tensor: tf.Variable | tf.Tensor) -> None:
        # The traced function is kept, so it must not refer to a copy of a table.
        variable = tensor if isinstance(tensor, tf.Variable) else None

        def write(prefix, *copy):
            value = variable.read_value() if variable is not None else copy[0]
            return [
                tf.raw_ops.SaveV2(
                    prefix=prefix, tensor_names=[name], shape_and_slices=[""], tensors=[value]
                )
            ]

        if name not in self._writers:
            self._writers[name] = run_remotely(tensor.device, write)
        self._writers[name](tf.constant(prefix), *([tensor] if variable is None else []))
