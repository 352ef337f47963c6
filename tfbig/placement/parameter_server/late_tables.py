"""Tables of a checkpoint, which parameter servers write while training goes on."""

import concurrent.futures
import os
import threading
from collections.abc import Callable

import tensorflow as tf

from tfbig.layers.rows import shard_of
from tfbig.placement.parameter_server.remote import led_from_here

_AT_ONCE = 8  # variables that are asked for: an answer takes long, and its bytes do not


def copy_to_host(variables: dict) -> dict[str, tf.Variable]:
    """Copies of variables, by name, in this process."""
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        values = list(threads.map(lambda variable: variable.numpy(), variables.values()))
    with tf.device("CPU:0"):
        made = [tf.Variable(value, trainable=False) for value in values]
    return dict(zip(variables, made, strict=True))


class LateTables:
    """Has the ps write the shards of ShardedEmbeddings and their slots, in a thread of the chief.

    Args:
        consistent: they are copied before training goes on, so that what is written is of one
            step. Otherwise a ps copies a shard when its turn comes, while workers go on updating
            it, so that nobody waits and at most one copy is in memory: a row is then of the
            checkpoint's step or of a later one, as are those that asynchronous workers read.
    """

    def __init__(self, consistent: bool):
        self._consistent = consistent
        self._writers: dict[str, Callable] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def deferred_variables(self, variables: dict) -> dict:
        """Those variables that are written late, or copies of them, by name."""
        late = {n: v for n, v in variables.items() if shard_of(v)}
        if not self._consistent:
            return late
        copies = {}
        for name, variable in late.items():
            with tf.device(variable.device):
                copies[name] = variable.read_value()  # what is assigned later does not change it
                copies[name][:1].numpy()  # waits until it is there
        return copies

    def start(self, complete: Callable[[], None]) -> None:
        """Begins the work of `complete`, which calls `write`; `wait` says how it ended."""

        def run() -> None:
            try:
                complete()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="tfbig-checkpoint", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is being written now."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> None:
        """Waits until what was started has ended, and raises what it has raised."""
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
            folder: that this task and the ps share.
        """
        prefixes = []
        for name, tensor in tensors.items():
            prefixes.append(os.path.join(folder, f"late-{len(prefixes)}"))
            self._write(prefixes[-1], name, tensor)
        return prefixes

    def _write(self, prefix: str, name: str, tensor: tf.Variable | tf.Tensor) -> None:
        # What is kept for the next time must not keep a copy of a table.
        variable = tensor if isinstance(tensor, tf.Variable) else None

        def write(prefix, *copy):
            value = variable.read_value() if variable is not None else copy[0]
            return [
                tf.raw_ops.SaveV2(
                    prefix=prefix, tensor_names=[name], shape_and_slices=[""], tensors=[value]
                )
            ]

        if name not in self._writers:
            self._writers[name] = led_from_here(tensor.device, write)
        self._writers[name](tf.constant(prefix), *([tensor] if variable is None else []))
