"""Variables of which each replica holds a slice; they are saved and loaded as complete ones."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

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
    def size(self) -> int:
        """The number of elements on each replica."""
        return self.variable.shape[0]

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

    def numpy(self) -> np.ndarray:
        """Gathers the slices; returns the complete value."""
        values = [self._read(part) for part in self.parts]
        flat = values[0] if len(values) == 1 else np.concatenate(values)
        return flat.reshape(tuple(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # the array is always a new one
        return self.numpy().astype(dtype or self.dtype.as_numpy_dtype, copy=False)

    def assign(self, value: Any) -> None:
        """Sets the complete value; each replica keeps its slice."""
        flat, offset = np.reshape(np.asarray(value, self.dtype.as_numpy_dtype), -1), 0
        for part in self.parts:
            self._write(part, flat[offset : offset + part.size])
            offset += part.size

    def local_parts(self, replica: int) -> list[tuple[int, np.ndarray]]:
        """The index of the first element, and the elements, of each part that a replica holds.

        Args:
            replica: one of this process.
        """
        found, offset = [], 0
        for part in self.parts:
            start, stop = range_of(part.size, self._placement.num_replicas, replica)
            held = part.store.local_values[replica - self._placement.first_replica]
            values = held[part.position : part.position + stop - start]
            found.append((offset + start, values.numpy()))
            offset += part.size
        return found

    def assign_local_parts(self, replica: int, values: list[np.ndarray]) -> None:
        """Sets what a replica of this process holds, as `local_parts` returns it."""
        for part, value in zip(self.parts, values, strict=True):
            held = part.store.local_values[replica - self._placement.first_replica]
            _set(held, part.position, value)

    def local_ranges(self, replica: int) -> list[tuple[int, int]]:
        """The first element, and the last one + 1, of each part that a replica holds."""
        found, offset = [], 0
        for part in self.parts:
            start, stop = range_of(part.size, self._placement.num_replicas, replica)
            found.append((offset + start, offset + stop))
            offset += part.size
        return found

    def _read(self, part: StoredPart) -> np.ndarray:
        stop = part.position + part.width
        held = [value[part.position : stop] for value in part.store.local_values]
        if self._placement.peers.count == 1:
            return np.concatenate([value.numpy() for value in held])[: part.size]
        gathered = _gathering(self._placement)(_per_replica(self._placement, held))
        return gathered.numpy()[: part.size]

    def _write(self, part: StoredPart, values: np.ndarray) -> None:
        placement = self._placement
        for i, held in enumerate(part.store.local_values):
            start, stop = range_of(part.size, placement.num_replicas, placement.first_replica + i)
            _set(held, part.position, values[start:stop])


def _set(variable: tf.Variable, position: int, values: np.ndarray) -> None:
    """Sets some elements of a vector, eagerly."""
    if values.size == variable.shape[0]:
        variable.assign(values)
    elif values.size:
        variable[position : position + values.size].assign(values)


@functools.cache
def _gathering(placement: Placement) -> Callable:
    """The function that gathers slices from all processes, traced once for many sizes."""

    def gathered(held: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(held, axis=0)

    return tf.function(
        lambda held: placement.run(gathered, (held,)), autograph=False, reduce_retracing=True
    )


def _per_replica(placement: Placement, values: list[tf.Tensor]) -> Any:
    """The values of this process's replicas, as an argument of `placement.run`."""
    return placement.strategy.experimental_distribute_values_from_function(  # type: ignore[attr-defined]
        lambda context: values[context.replica_id_in_sync_group - placement.first_replica]
    )
