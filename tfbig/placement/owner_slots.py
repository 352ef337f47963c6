"""Slots of which each replica holds a slice, and what saves and loads them as wholes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.placement.owner_layout import Piece
from tfbig.placement.placement import Placement
from tfbig.programs.apart import run_apart


class PieceSlot:
    """One slot of a piece: a variable whose value on each replica is that replica's slice.

    Args:
        placement: where.
        piece: how it is cut.
        initial: returns the first value of a slice, a tensor of shape [piece.per].
        name: the variable's.
    """

    def __init__(self, placement: Placement, piece: Piece, initial: Callable, name: str):
        self._placement, self._per = placement, piece.per

        def make() -> tf.Variable:
            with placement.scope():
                return tf.Variable(
                    initial,
                    trainable=False,
                    name=name,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )

        self.variable = run_apart(make)
        self.bytes = piece.per * self.variable.dtype.size
        # Traced for any range of the piece, so once for all the variables of a bucket.
        bound = tf.TensorSpec([], tf.int64)
        self._gather = tf.function(
            lambda *range_: placement.run(self._gathered, range_),
            input_signature=[bound, bound],
            autograph=False,
        )
        values = tf.TensorSpec([None], self.variable.dtype)
        self._put = tf.function(
            lambda *values_at: placement.run(self._put_in, values_at),
            input_signature=[values, bound],
            autograph=False,
        )

    def read(self, start: int, stop: int) -> np.ndarray:
        """A part of the whole piece, from wherever it is: all processes call this together."""
        return self._gather(start, stop).numpy()

    def write(self, start: int, values: np.ndarray) -> None:
        """Sets a part of the whole piece; each replica keeps what is in its slice."""
        self._put(tf.convert_to_tensor(values, self.variable.dtype), start)

    def _gathered(self, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        first, last = self._inside(start), self._inside(stop)
        part = tf.convert_to_tensor(self.variable)[first:last]
        return tf.distribute.get_replica_context().all_gather(part, axis=0)

    def _put_in(self, values: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        stop = start + tf.size(values, tf.int64)
        first, last = self._inside(start), self._inside(stop)
        skipped = self._begin() + first - start
        old = tf.convert_to_tensor(self.variable)
        new = [old[:first], values[skipped : skipped + last - first], old[last:]]
        value = tf.ensure_shape(tf.concat(new, 0), [self._per])
        with tf.control_dependencies([_private_api.assign_in_replica(self.variable, value)]):
            return tf.constant(0)

    def _begin(self) -> tf.Tensor:
        return tf.cast(self._placement.replica(), tf.int64) * self._per

    def _inside(self, place: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(place - self._begin(), 0, self._per)


class SlicedSlot:
    """One variable's part of a PieceSlot, with the face of a whole variable.

    `numpy` gathers it: where replicas are in several processes, all of them call it for the same
    slots in the same order. `assign` takes the whole value.

    Args:
        slot: of the piece.
        start: where the variable begins in the piece.
        shape: the variable's.
    """

    def __init__(self, slot: PieceSlot, start: int, shape: tf.TensorShape):
        self.slot, self._start, self.shape = slot, start, tf.TensorShape(shape)
        self.dtype = slot.variable.dtype

    def numpy(self) -> np.ndarray:
        """The whole value."""
        stop = self._start + self.shape.num_elements()
        return self.slot.read(self._start, stop).reshape(tuple(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it is a new array in any case
        return self.numpy().astype(dtype or self.dtype.as_numpy_dtype, copy=False)

    def assign(self, value: Any) -> None:
        """Sets the whole value."""
        self.slot.write(self._start, np.reshape(value, -1))
