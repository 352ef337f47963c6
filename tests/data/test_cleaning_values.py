"""What is done to values is the same in NumPy, for training, and in TensorFlow, for serving."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from tfbig.data.cleaning import values as v

ODD = st.sampled_from(["", " 7 ", "+.5", "1.", "1e400", "-1e39", "nan", "inf", "1_0", "0x1", "é5"])
SPELLED = st.one_of(
    st.floats().map(repr), st.integers().map(str), ODD, st.text("0123456789.eE+- \tx", max_size=8)
)
TEXTS = st.lists(SPELLED, min_size=1, max_size=20)
FLOATS = st.lists(st.floats(width=32, allow_subnormal=False), min_size=1, max_size=20)
quickly = settings(max_examples=60, deadline=None, derandomize=True)


def same(found: tf.Tensor, expected: np.ndarray) -> None:
    assert found.dtype == tf.as_dtype(expected.dtype)
    if expected.dtype.kind == "f":  # TensorFlow's threads take subnormal numbers for 0
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1.2e-38)
    else:
        np.testing.assert_array_equal(found.numpy(), expected)


@quickly
@given(TEXTS)
def test_strings_become_the_same_numbers(texts):
    same(v.as_float32(tf.constant(texts)), v.as_float32(np.array(texts, object)))
    same(v.as_float32(tf.constant(texts)), v.as_float32(np.array(texts)))
    for dtype in ("int32", "int64"):
        numbers, good = v.as_integers(np.array([t.encode() for t in texts], object), dtype)
        found, fine = v.as_integers(tf.constant(texts), dtype)
        same(found, numbers)
        same(fine, good)


@quickly
@given(FLOATS, st.floats(-1e30, 1e30, allow_subnormal=False), st.floats(0, 1e30))
def test_numbers_are_converted_filled_and_clipped_to_the_same(floats, low, width):
    array = np.float32(floats)
    tensor = tf.constant(array)
    same(v.as_float32(tensor), v.as_float32(array))
    for found, expected in zip(
        v.as_integers(tensor, "int64"), v.as_integers(array, "int64"), strict=True
    ):
        same(found, expected)
    same(v.missing(tensor), v.missing(array))
    same(v.filled(tensor, low), v.filled(array, low))
    clipped = v.clipped(array, low, low + width)
    same(v.clipped(tensor, low, low + width), clipped)
    changed = (clipped != array) & ~np.isnan(array)
    np.testing.assert_array_equal(v.outside(array, low, low + width), changed)


@quickly
@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=20),
    st.floats(-500, 500), st.floats(0, 500), st.sampled_from(["int8", "int32", "int64"]),
)  # fmt: skip
def test_integers_are_clipped_to_the_same_integers(numbers, low, width, dtype):
    array = np.array(numbers, dtype)
    clipped = v.clipped(array, low, low + width)
    assert clipped.dtype == array.dtype
    same(v.clipped(tf.constant(array), low, low + width), clipped)
    np.testing.assert_array_equal(v.outside(array, low, low + width), clipped != array)
    limits = max(math.ceil(low), np.iinfo(dtype).min), min(low + width, np.iinfo(dtype).max)
    if limits[0] <= limits[1]:  # some integer is within the bounds
        np.testing.assert_array_equal(clipped == array, (array >= low) & (array <= low + width))
        assert ((clipped >= limits[0]) & (clipped <= limits[1])).all()


def test_numbers_are_spelled_in_ascii_and_are_finite():
    texts = ["1", " -2.5e1\n", "+.5", "7.", "", "nan", "inf", "1e999", "1e39", "1_0", "0x10", "１"]
    found = v.as_float32(np.array(texts, object))
    np.testing.assert_array_equal(found, np.float32([1, -25, 0.5, 7] + [np.nan] * 8))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (np.array([1.5, 2, np.nan, np.inf, 3e9, -2e9]), [0, 2, 0, 0, 0, -2_000_000_000]),
        (np.array([2**31 - 1, 2**31, -(2**31)]), [2**31 - 1, 0, -(2**31)]),
        (np.array(["5", " -7", "5.0", "", "9" * 19], object), [5, -7, 0, 0, 0]),
        (np.array([True, False]), [1, 0]),
        (np.array([7, 2**63 + 5, 2**64 - 5], np.uint64), [7, 0, 0]),
    ],
)
def test_whole_numbers_within_the_type_become_integers(column, expected):
    numbers, good = v.as_integers(column, "int32")
    assert numbers.tolist() == expected
    assert (good == ((numbers != 0) | (column == 0))).all()
    same(v.as_integers(tf.constant(column), "int32")[0], numbers)


def test_numbers_too_large_for_any_integer_are_none():
    column = np.array([2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    numbers, good = v.as_integers(column, "int64")
    assert (numbers.tolist(), good.tolist()) == ([2**63 - 1, 0, 0], [True, False, False])
    same(v.as_integers(tf.constant(column), "int64")[0], numbers)


TEXT_COLUMNS = {
    "str": np.array(["a", "", "b"], object),
    "bytes": np.array([b"a", b"", b"b"], object),
    "none": np.array(["a", None, "b"], object),
    "nan": np.array(["a", np.nan, "b"], object),
    "U": np.array(["a", "", "b"]),
    "S": np.array([b"a", b"", b"b"]),
}


@pytest.mark.parametrize("kind", TEXT_COLUMNS)
def test_strings_of_every_kind_are_missing_when_empty_and_filled_in_kind(kind):
    column = TEXT_COLUMNS[kind]
    assert v.missing(column).tolist() == [False, True, False]
    expected = ["a", "Köln", "b"]
    if kind in ("bytes", "S"):
        expected = [text.encode() for text in expected]
    assert v.filled(column, "Köln").tolist() == expected
    assert v.texts(column) == ["a", "", "b"]


def test_strings_are_filled_in_tensors_too():
    assert v.missing(tf.constant(["a", ""])).numpy().tolist() == [False, True]
    assert v.filled(tf.constant(["a", ""]), "Köln").numpy().tolist() == [b"a", "Köln".encode()]
    broken = b"\xff"  # not UTF-8
    fill = v.texts(np.array([broken], object))[0]
    assert v.filled(tf.constant([b""]), fill).numpy()[0] == broken
    assert v.filled(np.array([b""], object), fill)[0] == broken


def test_integers_and_booleans_are_never_missing():
    for column in (np.array([0, 1]), np.array([True, False]), np.array([0, 1], np.uint8)):
        assert not v.missing(column).any()
        assert not v.missing(tf.constant(column)).numpy().any()


def test_integers_are_spelled_in_decimal():
    column = np.array([0, -7, 2**40])
    assert v.as_text(column).tolist() == ["0", "-7", "1099511627776"]
    assert v.as_text(tf.constant(column)).numpy().tolist() == [b"0", b"-7", b"1099511627776"]


def test_every_shape_stays_as_it_is():
    for values in (np.float32([[1], [np.nan]]), np.array([["1"], [""]], object)):
        assert v.as_float32(values).shape == (2, 1)
        assert v.as_integers(values, "int64")[1].tolist() == [[True], [False]]
        assert v.missing(values).tolist() == [[False], [True]]
        assert v.filled(values, "9" if values.dtype == object else 9).shape == (2, 1)
