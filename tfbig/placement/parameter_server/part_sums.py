"""Variables on parameter servers for the sums of the parts of a global batch."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.layers import indexed_slices


class DenseSum:
    """Holds each part's share of one sum, in one variable of shape [parts, …].

    Args:
        spec: the type of the sum.
        parts: how many there are.
        made: calls what makes a variable, on the ps where it is to be.
    """

    def __init__(self, spec: tf.TensorSpec, parts: int, made: Callable):
        shape = [parts, *spec.shape]
        self._variable = made(
            lambda: tf.Variable(lambda: tf.zeros(shape, spec.dtype), trainable=False)
        )

    def write(self, part: tf.Tensor, value: Any) -> None:
        """Writes a part's share. To write it twice is the same as to write it once.

        Args:
            part: int32 scalar.
            value: the share, of the sum's type.
        """
        self._variable[part].assign(value)

    def of_one(self) -> tf.Tensor:
        """The value of the first part, for what is equal in all parts."""
        with tf.device(self._variable.device):
            return self._variable.read_value()[0]

    def total(self) -> Any:
        """The sum over the parts, of the sum's type."""
        with tf.device(self._variable.device):
            return tf.reduce_sum(self._variable.read_value(), 0)


class RowsSum(DenseSum):
    """The same for IndexedSlices, whose number of rows differs in each part and step.

    They are kept as strings: TensorFlow 2.21 ends a process that receives the handle of a variable
    whose shape is not known in all dimensions.
    """

    def __init__(self, spec: indexed_slices.SlicesSpec, parts: int, made: Callable):
        self._spec, self._parts = spec, parts
        super().__init__(tf.TensorSpec([2], tf.string), parts, made)

    @override
    def write(self, part: tf.Tensor, value: tf.IndexedSlices) -> None:
        tensors = indexed_slices.tensors_of(value)
        super().write(part, tf.stack([tf.io.serialize_tensor(tensor) for tensor in tensors]))

    @override
    def total(self) -> tf.IndexedSlices:
        # The slices of all parts are concatenated. A row that several parts have appears as often.
        with tf.device(self._variable.device):
            strings = self._variable.read_value()
            tensors = []
            for i, empty in enumerate(indexed_slices.zeros(self._spec)):
                of_parts = [
                    tf.io.parse_tensor(strings[part, i], empty.dtype) for part in range(self._parts)
                ]
                whole = tf.concat(of_parts, 0)
                whole.set_shape([None, *empty.shape[1:]])
                tensors.append(whole)
            return indexed_slices.put_together(self._spec, tuple(tensors))


def sum_for(value: Any, parts: int, made: Callable) -> DenseSum | RowsSum:
    """Makes what holds the parts' shares of a sum.

    Args:
        value: a sum of this type, a tensor or IndexedSlices.
        parts, made: as for DenseSum.
    """
    kind = RowsSum if indexed_slices.is_sliced(value) else DenseSum
    return kind(indexed_slices.spec_of(value), parts, made)
