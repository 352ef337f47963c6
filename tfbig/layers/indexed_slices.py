"""Gradients that may be slices of rows (tf.IndexedSlices): added, scaled, combined."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.layers.rows import shard_of


def is_sliced(gradient: Any) -> bool:
    """Whether a gradient is slices of rows."""
    return isinstance(gradient, tf.IndexedSlices)


def as_kept(gradient: Any, source: Any) -> Any:
    """A gradient as it comes from the tape, in the form that it keeps until it is applied.

    That of a table's shard stays slices, of distinct rows; all others are dense.

    Args:
        gradient: tensor, slices, or None.
        source: the variable, or its value.
    """
    if gradient is None:
        return None
    if is_sliced(gradient) and shard_of(source):
        return combined(gradient)
    gradient = tf.convert_to_tensor(gradient)
    gradient.set_shape(source.shape)  # which TensorFlow may not have followed
    return gradient


def added(one: Any, other: Any) -> Any:
    """The sum of two gradients of one variable; rows of slices may come twice."""
    if not (is_sliced(one) and is_sliced(other)):
        return one + other
    return tf.IndexedSlices(
        tf.concat([one.values, other.values], 0),
        tf.concat([one.indices, other.indices], 0),
        one.dense_shape,
    )


def scaled(gradient: Any, factor: tf.Tensor) -> Any:
    """A gradient times a scalar."""
    values = values_of(gradient)
    values = values * tf.cast(factor, values.dtype)
    if not is_sliced(gradient):
        return values
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def combined(gradient: Any) -> Any:
    """A gradient whose slices are of distinct rows."""
    if not is_sliced(gradient):
        return gradient
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def values_of(gradient: Any) -> tf.Tensor:
    """The numbers of a gradient that are not known to be 0."""
    return gradient.values if is_sliced(gradient) else gradient


class SlicesSpec(NamedTuple):
    """The type of slices of any number of rows; that of a tensor is a tf.TensorSpec."""

    shape: tf.TensorShape
    dtype: tf.DType
    indices_dtype: tf.DType


def spec_of(value: Any) -> tf.TensorSpec | SlicesSpec:
    """The type of a tensor or of slices."""
    if is_sliced(value):
        return SlicesSpec(value.shape, value.dtype, value.indices.dtype)
    return tf.TensorSpec(value.shape, value.dtype)


def zeros(spec: tf.TensorSpec | SlicesSpec) -> tuple[tf.Tensor, ...]:
    """The tensors of a sum of nothing: slices of no row."""
    if isinstance(spec, SlicesSpec):
        return tf.zeros([0, *spec.shape[1:]], spec.dtype), tf.zeros([0], spec.indices_dtype)
    return (tf.zeros(spec.shape, spec.dtype),)


def invariants(spec: tf.TensorSpec | SlicesSpec) -> tuple[tf.TensorShape, ...]:
    """The shapes of these tensors that a sum keeps as it goes on."""
    if isinstance(spec, SlicesSpec):
        return tf.TensorShape([None, *spec.shape[1:]]), tf.TensorShape([None])
    return (spec.shape,)


def tensors_of(value: Any) -> tuple[tf.Tensor, ...]:
    """The tensors of a tensor or of slices, for a loop to carry."""
    return (value.values, value.indices) if is_sliced(value) else (value,)


def put_together(spec: tf.TensorSpec | SlicesSpec, tensors: tuple[tf.Tensor, ...]) -> Any:
    """The inverse of `tensors_of`."""
    if isinstance(spec, SlicesSpec):
        return tf.IndexedSlices(*tensors, dense_shape=tf.constant(spec.shape.as_list(), tf.int32))
    return tensors[0]
