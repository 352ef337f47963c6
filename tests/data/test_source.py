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


def test_a_selection_reads_its_examples_by_new_numbers():
    source = Squares().select([7, 2, 2, 9])
    assert len(source) == 4
    np.testing.assert_array_equal(source.read(np.array([3, 0, 1, 1]))[1], [81, 49, 4, 4])
    assert source.element_spec[1] == tf.TensorSpec([], tf.float32)


def test_a_selection_may_be_a_mask_and_a_selection_of_a_selection():
    source = Squares().select(np.arange(10) % 2 == 1).select([4, 0])
    np.testing.assert_array_equal(source.read(np.arange(2))[1], [81, 1])
    assert len(source.select([])) == 0
    assert len(source.select(np.array([False, False]))) == 0
    with pytest.raises(UserError, match=r"^SelectedSource is empty"):
        _ = source.select([]).element_spec


def test_a_selection_does_not_see_later_changes_of_the_array_it_was_made_from():
    indices = np.array([1, 2])
    source = Squares().select(indices)
    indices[:] = 9
    np.testing.assert_array_equal(source.read(np.arange(2))[1], [1, 4])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (
            [0, 10],
            r"^select: there is no example 10; the source has 10 examples, numbered from 0\.$",
        ),
        ([3, -1], r"^select: there is no example -1; the source has 10"),
        (np.array([2**63 + 1], np.uint64), r"^select: there is no example 9223372036854775809;"),
        ([0.5, 1.0], r"received float64 of shape \[2\]\.$"),
        (np.zeros([2, 2], int), r"received int64 of shape \[2, 2\]\.$"),
        (np.ones(9, bool), r"bool of shape \[10\], received bool of shape \[9\]\.$"),
        (3, r"received int64 of shape \[\]\.$"),
    ],
)
def test_a_selection_that_the_source_does_not_have_is_refused(indices, message):
    with pytest.raises(UserError, match=message):
        Squares().select(indices)


def test_what_is_derived_is_batched_augmented_read_and_cleaned_as_its_source_is():
    source = Squares().batch(4)
    source.threads, source.augmentation, source.cleaning = 3, "changes", "repairs"
    for derived in (source.map(lambda b: b), source.select([1]), source.select([1]).batch(4)):
        held = (derived.batch_size, derived.threads, derived.augmentation, derived.cleaning)
        assert held == (4, 3, "changes", "repairs")
    assert source.select([1, 2]).batch(2).batch_size == 2
    assert source.batch_size == 4


def test_a_mixture_is_not_selected_from():
    source = Squares()
    source.mixture = object()
    with pytest.raises(UserError, match=r"^select: a mixture has no examples of its own;"):
        source.select([1])
    assert source.map(lambda b: b).mixture is source.mixture


def test_a_source_without_its_methods_says_which_are_missing():
    class Nothing(tfbig.data.Source):
        pass

    with pytest.raises(NotImplementedError, match="__len__"):
        len(Nothing())
    with pytest.raises(NotImplementedError, match=r"read\(indices\)"):
        Nothing().read(np.arange(1))


def test_a_source_is_augmented_once():
    source = tfbig.data.ArraySource(np.zeros([4, 8, 8, 1], np.float32)).augment(
        [{"name": "RandomFlip"}]
    )
    with pytest.raises(UserError, match="already augmented; put all layers into one list"):
        source.augment([{"name": "RandomFlip"}])
