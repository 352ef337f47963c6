"""ArraySource: arrays in memory."""

import numpy as np
import pytest
import tensorflow as tf

from tfbig.data import ArraySource
from tfbig.errors import UserError


def test_rows_of_every_array_are_read_together_in_any_order():
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    source = ArraySource(({"image": images, "row": np.arange(6)}, np.arange(6) * 10))
    assert len(source) == 6
    features, labels = source.read(np.array([5, 0, 5]))
    np.testing.assert_array_equal(features["image"], images[[5, 0, 5]])
    np.testing.assert_array_equal(features["row"], [5, 0, 5])
    np.testing.assert_array_equal(labels, [50, 0, 50])
    assert source.element_spec == (
        {"image": tf.TensorSpec([2, 2], tf.uint8), "row": tf.TensorSpec([], tf.int64)},
        tf.TensorSpec([], tf.int64),
    )


def test_float64_becomes_float32_and_other_types_stay():
    source = ArraySource((np.array([0.1, 0.2]), np.array([1, 2], np.int8), tf.constant([1.5, 2])))
    wide, small, tensor = source.read(np.array([1]))
    assert (wide.dtype, small.dtype, tensor.dtype) == (np.float32, np.int8, np.float32)
    assert wide[0] == np.float32(0.2)


def test_strings_can_be_read():
    source = ArraySource(np.array(["a", "bcd"], object))
    assert source.element_spec == tf.TensorSpec([], tf.string)
    assert list(source.read(np.array([1, 0]))) == ["bcd", "a"]


def test_arrays_of_different_lengths_are_refused_with_their_lengths():
    with pytest.raises(UserError, match=r"^ArraySource: the arrays have \[3, 4\] examples; pass"):
        ArraySource((np.zeros([3, 2]), np.zeros([4])))


def test_a_scalar_or_nothing_is_refused():
    with pytest.raises(UserError, match="^ArraySource: 7 is not an array with one row per example"):
        ArraySource((np.zeros([3]), 7))
    with pytest.raises(UserError, match="^ArraySource: the arrays have no examples"):
        ArraySource({})
