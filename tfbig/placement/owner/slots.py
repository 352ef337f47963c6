"""Slots of which each replica holds a slice; they are saved and loaded as complete variables."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.placement.owner.layout import Bucket
from tfbig.placement.placement import Placement
from tfbig.programs.tracing import run_in_new_thread


class Exchange:
    """Reads and writes ranges of values of which each replica holds a slice.

    The functions are traced once for all slices, independent of their number.

    Args:
        placement: the placement of the replicas.
    """

    def __init__(self, placement: Placement):
        self._placement = placement
        self._gather = tf.function(
            lambda *arguments: placement.run(self._gathered, arguments),
            autograph=False,
            reduce_retracing=True,  # slices have many sizes
        )
        self._replace = tf.function(
            lambda *arguments: placement.run_each(self._replaced, arguments),
            autograph=False,
            reduce_retracing=True,
        )

    def read(self, variable: tf.Variable, start: int, stop: int) -> np.ndarray:
        """Returns elements start … stop of the complete value; all processes call this together."""
        bounds = (tf.constant(bound, tf.int64) for bound in (start, stop))
        return self._gather(self._values(variable), *bounds).numpy()

    def write(self, variable: tf.Variable, start: int, values: np.ndarray) -> None:
        """Sets the elements from `start` on; each replica keeps the part in its slice."""
        values = tf.convert_to_tensor(values, variable.dtype)
        new = self._replace(self._values(variable), values, tf.constant(start, tf.int64))
        for local, value in zip(self._local_variables(variable), new, strict=True):
            local.assign(value)

    def _local_variables(self, variable: tf.Variable) -> tuple[tf.Variable, ...]:
        return self._placement.strategy.experimental_local_results(variable)  # type: ignore[attr-defined]

    def _values(self, variable: tf.Variable) -> Any:
        """The slices in this process, as a distributed value for `run`."""
        local, first = self._local_variables(variable), self._placement.first_replica
        return self._placement.strategy.experimental_distribute_values_from_function(  # type: ignore[attr-defined]
            lambda context: local[context.replica_id_in_sync_group - first].read_value()
        )

    def _gathered(self, held: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        begin, end = self._clip(held, start), self._clip(held, stop)
        return tf.distribute.get_replica_context().all_gather(held[begin:end], axis=0)

    def _replaced(self, held: tf.Tensor, values: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        stop = start + tf.size(values, tf.int64)
        begin, end = self._clip(held, start), self._clip(held, stop)
        skipped = self._begin(held) + begin - start
        new = [held[:begin], values[skipped : skipped + end - begin], held[end:]]
        return tf.concat(new, 0)

    def _begin(self, held: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._placement.replica(), tf.int64) * tf.size(held, tf.int64)

    def _clip(self, held: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(position - self._begin(held), 0, tf.size(held, tf.int64))


class BucketSlot:
    """One slot of a bucket: a variable whose value on each replica is the replica's slice.

    Args:
        placement: the placement of the replicas.
        exchange: reads and writes ranges across the replicas.
        bucket: the bucket, which is cut into slices.
        initial: returns the initial value of a slice, a tensor of shape [bucket.slice_size].
        name: the name of the variable.

    Attributes:
        variable: the tf.Variable, with one slice on each replica.
        bytes: the bytes of a slice.
    """

    def __init__(
        self, placement: Placement, exchange: Exchange, bucket: Bucket, initial: Callable, name: str
    ):
        self._exchange = exchange

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
        self.bytes = bucket.slice_size * self.variable.dtype.size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns elements start … stop of the bucket; all processes call this together."""
        return self._exchange.read(self.variable, start, stop)

    def write(self, start: int, values: np.ndarray) -> None:
        """Sets the elements from `start` on; each replica keeps the part in its slice."""
        self._exchange.write(self.variable, start, values)


class SlotRange(NamedTuple):
    """The part of a bucket's slot that belongs to one variable: `size` elements from `start` on."""

    slot: BucketSlot
    start: int
    size: int


class SlicedSlot:
    """A slot of one variable, stored in BucketSlots; it behaves like a complete variable.

    `numpy` gathers the slices: if the replicas are in several processes, all of them call it for
    the same slots in the same order. `assign` expects the complete value.

    Args:
        parts: the ranges that make up the slot, in the order of its elements.
        shape: the shape of the slot.
    """

    def __init__(self, parts: list[SlotRange], shape: tf.TensorShape):
        self.parts, self.shape = parts, tf.TensorShape(shape)
        self.dtype = parts[0].slot.variable.dtype

    def numpy(self) -> np.ndarray:
        """Gathers the slices; returns the complete value."""
        values = [slot.read(start, start + size) for slot, start, size in self.parts]
        flat = values[0] if len(values) == 1 else np.concatenate(values)
        return flat.reshape(tuple(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # the array is always a new one
        return self.numpy().astype(dtype or self.dtype.as_numpy_dtype, copy=False)

    def assign(self, value: Any) -> None:
        """Sets the complete value; each replica keeps its slice."""
        flat, position = np.reshape(value, -1), 0
        for slot, start, size in self.parts:
            slot.write(start, flat[position : position + size])
            position += size
