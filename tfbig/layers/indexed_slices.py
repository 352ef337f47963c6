"""Operations on gradients that may be sparse (tf.IndexedSlices): add, scale, combine."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.layers.sharded_tables import shard_of


def is_sliced(gradient: Any) -> bool:
    """Whether a gradient is tf.IndexedSlices."""
    return isinstance(gradient, tf.IndexedSlices)


def as_kept(gradient: Any, source: Any) -> Any:
    """Converts a gradient from the tape to the form that it has until it is applied.

    The gradient of a table's shard stays IndexedSlices, with unique rows; others become dense.

    Args:
        gradient: tensor, IndexedSlices, or None.
        source: the variable, or its value.
    """
    if gradient is None:
        return None
    if is_sliced(gradient) and shard_of(source):
        return combined(gradient)
    gradient = tf.convert_to_tensor(gradient)
    gradient.set_shape(source.shape)  # TensorFlow may not have inferred it
    return gradient


def added(one: Any, other: Any) -> Any:
    """The sum of two gradients of one variable; IndexedSlices may then have a row twice."""
    if not (is_sliced(one) and is_sliced(other)):
        return one + other
    return tf.IndexedSlices(
        tf.concat([one.values, other.values], 0),
        tf.concat([one.indices, other.indices], 0),
        one.dense_shape,
    )


def scaled(gradient: Any, factor: tf.Tensor) -> Any:
    """A gradient multiplied by a scalar."""
    values = values_of(gradient)
    values = values * tf.cast(factor, values.dtype)
    if not is_sliced(gradient):
        return values
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def combined(gradient: Any) -> Any:
    """Sums the slices of the same row, so that the rows of a gradient are unique."""
    if not is_sliced(gradient):
        return gradient
    rows, segments = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, segments, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def values_of(gradient: Any) -> tf.Tensor:
    """The values of a gradient, without rows that are known to be 0."""
    return gradient.values if is_sliced(gradient) else gradient


class SlicesSpec(NamedTuple):
    """The spec of IndexedSlices with any number of rows; that of a tensor is a tf.TensorSpec."""

    shape: tf.TensorShape
    dtype: tf.DType
    indices_dtype: tf.DType


def spec_of(value: Any) -> tf.TensorSpec | SlicesSpec:
    """The spec of a tensor or of IndexedSlices."""
    if is_sliced(value):
        return SlicesSpec(value.shape, value.dtype, value.indices.dtype)
    return tf.TensorSpec(value.shape, value.dtype)


def zeros(spec: tf.TensorSpec | SlicesSpec) -> tuple[tf.Tensor, ...]:
    """The component tensors of an empty sum: zeros, or IndexedSlices without rows."""
    if isinstance(spec, SlicesSpec):
        return tf.zeros([0, *spec.shape[1:]], spec.dtype), tf.zeros([0], spec.indices_dtype)
    return (tf.zeros(spec.shape, spec.dtype),)


def invariants(spec: tf.TensorSpec | SlicesSpec) -> tuple[tf.TensorShape, ...]:
    """The shape invariants of the component tensors; the number of rows of slices may grow."""
    if isinstance(spec, SlicesSpec):
        return tf.TensorShape([None, *spec.shape[1:]]), tf.TensorShape([None])
    return (spec.shape,)


def tensors_of(value: Any) -> tuple[tf.Tensor, ...]:
    """The component tensors of a tensor or of IndexedSlices, for use as loop variables."""
    return (value.values, value.indices) if is_sliced(value) else (value,)


def put_together(spec: tf.TensorSpec | SlicesSpec, tensors: tuple[tf.Tensor, ...]) -> Any:
    """The inverse of `tensors_of`."""
    if isinstance(spec, SlicesSpec):
        return tf.IndexedSlices(*tensors, dense_shape=tf.constant(spec.shape.as_list(), tf.int32))
    return tensors[0]
