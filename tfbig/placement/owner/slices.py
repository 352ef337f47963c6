"""Variables of which each replica holds a slice; they are saved and loaded as complete ones."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.placement.owner.layout import range_of
from tfbig.placement.placement import Placement
from tfbig.programs.tracing import run_in_new_thread


class Store:
    """A variable whose value on each replica is the replica's own.

    Args:
        placement: the placement of the replicas.
        size: the number of elements on each replica.
        initial: returns the initial value on each replica, a tensor of shape [size].
        name: the name of the variable.

    Attributes:
        variable: the tf.Variable, with another value on each replica.
        bytes: the bytes of the value of one replica.
    """

    def __init__(self, placement: Placement, size: int, initial: Callable, name: str):
        self._placement = placement

        def create() -> tf.Variable:
            with placement.scope():
                return tf.Variable(
                    initial,
                    trainable=False,
                    name=name,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )

        self.variable = run_in_new_thread(create)
        self.bytes = size * self.variable.dtype.size

    @property
    def local_values(self) -> tuple[tf.Variable, ...]:
        """The variables of the replicas in this process."""
        return self._placement.strategy.experimental_local_results(self.variable)  # type: ignore[attr-defined]


class StoredPart(NamedTuple):
    """`size` elements of a variable, of which each replica stores `width` from `position` on."""

    store: Store
    position: int
    size: int
    width: int


class SlicedVariable:
    """A variable that is stored in slices; it behaves like a complete one.

    `numpy` gathers the slices: if the replicas are in several processes, all of them call it for
    the same variables in the same order. `assign` expects the complete value, in each process.

    Args:
        placement: the placement of the replicas.
        parts: what makes up the variable, in the order of its elements.
        shape: the shape of the variable.
    """

    def __init__(self, placement: Placement, parts: list[StoredPart], shape: Any):
        self._placement = placement
        self.parts, self.shape = parts, tf.TensorShape(shape)
        self.dtype = parts[0].store.variable.dtype

    def gather(self) -> np.ndarray:
        """The complete value; where replicas are in several processes, all call it together."""
        values = [self._read(part) for part in self.parts]
        flat = values[0] if len(values) == 1 else np.concatenate(values)
        return flat.reshape(tuple(self.shape))

    def numpy(self) -> np.ndarray:
        """The same, refused where a task acts alone, as for callbacks.

        Raises:
            UserError: other tasks have slices, and do not take part now.
        """
        self._check_together()
        return self.gather()

    def _check_together(self) -> None:
        peers = self._placement.peers
        if peers.count > 1 and peers.alone:
            raise UserError(
                f"a callback reads or assigns a variable that is in slices on {peers.count} "
                "tasks, and callbacks run on the chief alone; read it from a checkpoint in "
                "model_dir, or from the result when training has ended."
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # the array is always a new one
        return self.numpy().astype(dtype or self.dtype.as_numpy_dtype, copy=False)

    def assign(self, value: Any) -> None:
        """Sets the complete value; each replica keeps its slice."""
        self._check_together()
        flat = np.reshape(np.asarray(value, self.dtype.as_numpy_dtype), -1)
        self.assign_local([flat[start:stop] for start, stop in self.local_ranges()])

    def local_ranges(self) -> list[tuple[int, int]]:
        """The first element, and the last one + 1, of each slice in this process."""
        return [(offset + start, offset + stop) for offset, start, stop, _ in self._held()]

    def local_values(self) -> list[np.ndarray]:
        """The elements of each slice in this process, in the order of `local_ranges`."""
        return [held.numpy()[: stop - start] for _, start, stop, held in self._held()]

    def assign_local(self, values: list[np.ndarray]) -> None:
        """Sets the slices in this process, in the order of `local_ranges`."""
        for (_, _, _, held), value in zip(self._held(), values, strict=True):
            held.assign(value)

    def _held(self) -> Iterator[tuple[int, int, int, "_Held"]]:
        """The slices in this process: the part's offset, the range in it, and where it is."""
        placement, offset = self._placement, 0
        for part in self.parts:
            for i, variable in enumerate(part.store.local_values):
                replica = placement.first_replica + i
                start, stop = range_of(part.size, placement.num_replicas, replica)
                yield offset, start, stop, _Held(variable, part.position, part.width)
            offset += part.size

    def _read(self, part: StoredPart) -> np.ndarray:
        held = [_Held(v, part.position, part.width) for v in part.store.local_values]
        if self._placement.peers.count == 1:
            return np.concatenate([each.numpy() for each in held])[: part.size]
        values = _per_replica(self._placement, [each.read() for each in held])
        return _gathering(self._placement)(values).numpy()[: part.size]


class _Held(NamedTuple):
    """Elements of a variable on one device: `width` of them from `position` on."""

    variable: tf.Variable
    position: int
    width: int

    def read(self) -> tf.Tensor:
        if self.width == self.variable.shape[0]:
            return self.variable.read_value()
        return self.variable[self.position : self.position + self.width]

    def numpy(self) -> np.ndarray:
        return self.read().numpy()

    def assign(self, values: np.ndarray) -> None:
        """Sets the first elements; those that follow are padding."""
        if values.size == self.variable.shape[0]:
            self.variable.assign(values)
        elif values.size:
            self.variable[self.position : self.position + values.size].assign(values)


@functools.cache
def _gathering(placement: Placement) -> Callable:
    """The function that gathers slices from all processes, traced once for many sizes."""

    def gathered(held: tf.Tensor) -> tf.Tensor:
        # TensorFlow looks for the device of the value, and an argument has none.
        return tf.distribute.get_replica_context().all_gather(tf.identity(held), axis=0)

    return tf.function(
        lambda held: placement.run(gathered, (held,)), autograph=False, reduce_retracing=True
    )


def _per_replica(placement: Placement, values: list[tf.Tensor]) -> Any:
    """The values of this process's replicas, as an argument of `placement.run`."""
    return placement.strategy.experimental_distribute_values_from_function(  # type: ignore[attr-defined]
        lambda context: values[context.replica_id_in_sync_group - placement.first_replica]
    )
