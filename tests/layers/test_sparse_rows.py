"""SparseTensors as rows: nothing is lost, and rows can be cut, padded and put together."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from tfbig.layers.sparse_rows import (
    SparseRows,
    from_rows,
    rows_dataset,
    to_rows,
    with_rows,
    with_sparse,
)

EXAMPLE = tf.SparseTensor(
    [[0, 1], [0, 4], [2, 0], [2, 2], [2, 3], [3, 4]], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [5, 6]
)
WORDS = tf.SparseTensor([[0, 0], [2, 1], [2, 2]], ["a", "b", "ü"], [4, 3])
CUBE = tf.SparseTensor([[0, 1, 2], [0, 3, 0], [2, 0, 1]], [7, 8, 9], [3, 4, 5])
NO_VALUES = tf.SparseTensor(tf.zeros([0, 2], tf.int64), tf.zeros([0]), [3, 4])
FLAT = tf.SparseTensor([[1], [2]], [3, 4], [4])


def assert_equal(found, expected):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.dense_shape, expected.dense_shape)


def test_values_places_and_counts_are_those_of_each_row():
    rows = to_rows(EXAMPLE)
    zero = [0.0]
    assert rows.values.numpy().tolist() == [
        [1.0, 2.0, 0.0],
        zero * 3,
        [3.0, 4.0, 5.0],
        [6.0, 0.0, 0.0],
        zero * 3,
    ]
    assert rows.places.numpy()[..., 0].tolist() == [
        [1, 4, 0],
        [0, 0, 0],
        [0, 2, 3],
        [4, 0, 0],
        [0, 0, 0],
    ]
    assert rows.counts.numpy().tolist() == [2, 0, 3, 1, 0]
    assert rows.shape.numpy().tolist() == [[6]] * 5
    assert to_rows(WORDS).values.numpy().tolist()[2] == [b"b", "ü".encode()]


@pytest.mark.parametrize("sparse", [EXAMPLE, WORDS, CUBE, NO_VALUES, FLAT])
def test_rows_become_the_same_sparse_tensor(sparse):
    rows = to_rows(sparse)
    n, width = sparse.shape[0], sparse.shape.rank - 1
    assert [len(t) for t in rows] == [n] * 4
    assert rows.places.shape[2] == rows.shape.shape[1] == width
    assert_equal(from_rows(rows), sparse)


@st.composite
def sparse_tensors(draw):
    """Of rank 2 or 3, with values that may be 0, and rows that may be empty."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    place = st.tuples(*(st.integers(0, size - 1) for size in shape))
    places = sorted(draw(st.sets(place, max_size=12)))
    values = draw(st.lists(st.integers(-2, 2), min_size=len(places), max_size=len(places)))
    indices = np.array(places, np.int64).reshape([-1, len(shape)])
    return tf.SparseTensor(indices, np.array(values, np.int32), shape)


@settings(max_examples=60, deadline=None)
@given(sparse_tensors(), st.integers(0, 4), st.integers(0, 4))
def test_a_cut_of_rows_is_that_cut_of_the_sparse_tensor(sparse, start, size):
    start = min(start, sparse.shape[0] - 1)
    size = max(1, min(size, sparse.shape[0] - start))
    rows = to_rows(sparse)
    assert_equal(from_rows(rows), sparse)
    cut = SparseRows(*(tensor[start : start + size] for tensor in rows))
    rest = sparse.shape[1:]
    expected = tf.sparse.slice(sparse, [start, *[0] * len(rest)], [size, *rest])
    assert_equal(from_rows(cut), expected)


def test_rows_may_be_padded_with_more_room_and_put_together_with_others():
    rows = to_rows(EXAMPLE)
    roomy = rows._replace(
        values=tf.pad(rows.values, [[0, 0], [0, 2]], constant_values=9.0),
        places=tf.pad(rows.places, [[0, 0], [0, 2], [0, 0]]),
    )
    assert_equal(from_rows(roomy), EXAMPLE)
    wider = to_rows(tf.SparseTensor([[0, 7]], [8.0], [1, 9]))
    wider = wider._replace(
        values=tf.pad(wider.values, [[0, 0], [0, 4]]),
        places=tf.pad(wider.places, [[0, 0], [0, 4], [0, 0]]),
    )
    both = SparseRows(*(tf.concat(pair, 0) for pair in zip(roomy, wider, strict=True)))
    expected = tf.sparse.concat(0, [EXAMPLE, tf.SparseTensor([[0, 7]], [8.0], [1, 9])], True)
    assert_equal(from_rows(both), expected)


def test_indices_in_any_order_are_sorted():
    mixed = tf.SparseTensor([[2, 0], [0, 4], [0, 1]], [3.0, 2.0, 1.0], [3, 5])
    assert_equal(from_rows(to_rows(mixed)), tf.sparse.reorder(mixed))


def test_shapes_that_are_known_stay_known_in_a_trace():
    @tf.function(input_signature=[tf.SparseTensorSpec([4, None], tf.string)])
    def there_and_back(sparse):
        rows = to_rows(sparse)
        assert [t.shape.as_list() for t in rows] == [[4, None], [4, None, 1], [4], [4, 1]]
        return from_rows(rows)

    assert_equal(there_and_back(WORDS), WORDS)


Pair = collections.namedtuple("Pair", "first second")


def test_structures_keep_their_types_and_dense_tensors_are_left_alone():
    dense = tf.ones([5])
    given = (Pair(EXAMPLE, dense), {"b": [dense, EXAMPLE], "a": dense}, None)
    found = with_sparse(with_rows(given))
    assert type(found) is tuple
    assert type(found[0]) is Pair
    assert list(found[1]) == ["b", "a"]
    assert type(found[1]["b"]) is list
    assert found[2] is None
    assert found[0].second is found[1]["a"] is dense
    assert_equal(found[0].first, EXAMPLE)
    assert_equal(found[1]["b"][1], EXAMPLE)


@pytest.mark.parametrize("kind", ["alone", "dict", "labelled"])
def test_the_elements_of_a_dataset_have_rows_instead(kind):
    element = {
        "alone": EXAMPLE,
        "dict": {"x": EXAMPLE},
        "labelled": ({"x": EXAMPLE}, tf.range(5)),
    }[kind]
    dataset = rows_dataset(tf.data.Dataset.from_tensor_slices(element).batch(2))
    leaf = lambda e: e[0] if kind == "labelled" else e  # noqa: E731
    parts = [leaf(e) if kind == "alone" else leaf(e)["x"] for e in dataset]
    assert all(type(part) is SparseRows for part in parts)
    assert [part.counts.numpy().tolist() for part in parts] == [[2, 0], [3, 1], [0]]
    assert_equal(tf.sparse.concat(0, [from_rows(part) for part in parts]), EXAMPLE)


def test_a_dataset_without_sparse_tensors_is_left_alone():
    dataset = tf.data.Dataset.from_tensors({"x": tf.ones([2])})
    assert rows_dataset(dataset) is dataset
