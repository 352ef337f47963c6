"""The Source interface: what a subclass implements and what it gets for it."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.errors import UserError


class Squares(tfbig.data.Source):
    def __init__(self, length=10):
        self.length = length
        self.reads = 0

    def __len__(self):
        return self.length

    def read(self, indices):
        self.reads += 1
        x = indices.astype("float32")[:, None]
        return {"x": x}, x[:, 0] ** 2


def test_a_subclass_with_len_and_read_can_be_batched_and_described():
    source = Squares().batch(4)
    assert (len(source), source.batch_size) == (10, 4)
    assert source.element_spec == (
        {"x": tf.TensorSpec([1], tf.float32)},
        tf.TensorSpec([], tf.float32),
    )


def test_the_spec_costs_one_read_however_often_it_is_asked_for():
    source = Squares()
    assert source.element_spec is source.element_spec
    assert source.reads == 1


def test_maps_are_applied_to_whole_batches_in_their_order():
    shapes = []

    def double(batch):
        shapes.append(batch[1].shape)
        return batch[0], batch[1] * 2

    source = Squares().map(double).map(lambda batch: (batch[0]["x"], batch[1] + 1))
    features, labels = source.read(np.array([3, 1]))
    np.testing.assert_array_equal(features, [[3], [1]])
    np.testing.assert_array_equal(labels, [19, 3])
    assert shapes == [(2,)]
    assert source.element_spec[0] == tf.TensorSpec([1], tf.float32)


def test_batch_and_map_leave_the_source_as_it_was_and_keep_each_others_work():
    source = Squares()
    batched = source.batch(4).map(lambda batch: batch[0])
    assert batched.batch_size == 4
    assert batched.batch(5).batch_size == 5
    np.testing.assert_array_equal(batched.batch(5).read(np.array([2]))["x"], [[2]])
    assert source.batch_size is None
    assert batched.batch_size == 4
    assert isinstance(source.read(np.array([2])), tuple)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "64", None])
def test_a_batch_size_that_is_no_positive_integer_is_refused(size):
    with pytest.raises(UserError, match=r"^Source\.batch\(.*an integer of 1 or more\.$"):
        Squares().batch(size)


def test_an_empty_source_says_so_when_its_spec_is_asked_for():
    with pytest.raises(UserError, match=r"^Squares is empty: it has 0 examples\. Check .*[^\n]$"):
        _ = Squares(0).element_spec
