"""Places on parameter servers for what the parts of a global batch add up to."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.training.step import indexed_slices


class DensePlace:
    """A place for each part's share of one sum, in one tensor of shape [parts, …].

    Args:
        spec: the type of the sum.
        parts: how many there are.
        made: calls what makes a variable, on the ps where it is to be.
    """

    def __init__(self, spec: tf.TensorSpec, parts: int, made: Callable):
        shape = [parts, *spec.shape]
        self._held = made(lambda: tf.Variable(lambda: tf.zeros(shape, spec.dtype), trainable=False))

    def put(self, part: tf.Tensor, value: tf.Tensor) -> None:
        """Puts a part's share there; once more is the same as once."""
        self._held[part].assign(value)

    def of_one(self) -> tf.Tensor:
        """What all parts have put there, where it is equal in all of them."""
        with tf.device(self._held.device):
            return self._held.read_value()[0]

    def total(self) -> tf.Tensor:
        """The sum over the parts."""
        with tf.device(self._held.device):
            return tf.reduce_sum(self._held.read_value(), 0)


class RowsPlace(DensePlace):
    """The same for slices of rows, of which each part has another number in every step.

    They are there as strings: TensorFlow 2.21 ends a process that is sent the handle of a variable
    whose shape is not known in all dimensions.
    """

    def __init__(self, spec: indexed_slices.SlicesSpec, parts: int, made: Callable):
        self._spec, self._parts = spec, parts
        super().__init__(tf.TensorSpec([2], tf.string), parts, made)

    def put(self, part: tf.Tensor, value: tf.IndexedSlices) -> None:
        tensors = indexed_slices.tensors_of(value)
        super().put(part, tf.stack([tf.io.serialize_tensor(tensor) for tensor in tensors]))

    def total(self) -> tf.IndexedSlices:
        """The slices of all parts; rows that several parts have come several times."""
        with tf.device(self._held.device):
            strings = self._held.read_value()
            tensors = []
            for i, empty in enumerate(indexed_slices.zeros(self._spec)):
                of_parts = [
                    tf.io.parse_tensor(strings[part, i], empty.dtype) for part in range(self._parts)
                ]
                whole = tf.concat(of_parts, 0)
                whole.set_shape([None, *empty.shape[1:]])
                tensors.append(whole)
            return indexed_slices.put_together(self._spec, tuple(tensors))


def place_for(value: Any, parts: int, made: Callable) -> DensePlace | RowsPlace:
    """A place for sums like this one, a tensor or slices of rows."""
    kind = RowsPlace if indexed_slices.is_sliced(value) else DensePlace
    return kind(indexed_slices.spec_of(value), parts, made)
