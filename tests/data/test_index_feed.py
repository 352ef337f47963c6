"""Batches by index: the chief hands out indices, and any worker reads the batches."""

import functools
import operator

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.data.feeds.index_feed import BatchIndex, IndexFeed, IndexReader, as_arrays
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError

SOURCE = tfbig.data.ArraySource(np.arange(20, dtype=np.float32)).batch(4)


def source_feed(part: int = 0, parts: int = 1) -> SourceFeed:
    share = dict(worker=part, workers=parts)
    return SourceFeed(SOURCE, seed=3, multiple=1, steps_per_loop=5, **share)


def dataset_feed(length: int = 20, shuffled: bool = False) -> DatasetFeed:
    data = tf.data.Dataset.range(length)
    if shuffled:
        data = data.shuffle(length, seed=1)
    return DatasetFeed(data.batch(4), multiple=1, steps_per_loop=5)


def read(reader: IndexReader, passes: int, position: int, steps: int) -> list[list[float]]:
    stack = reader.read(BatchIndex(passes, position), steps)
    return [
        np.asarray(stack.values[i])[:n].tolist() for i, n in enumerate(stack.counts[: stack.steps])
    ]


def test_a_source_is_read_by_step_whoever_reads_and_in_whatever_order():
    plain, one, other = source_feed(), IndexReader(source_feed), IndexReader(source_feed)
    stack = plain.pull(0, 5)
    expected = [np.asarray(stack.values[i]).tolist() for i in range(5)]

    assert read(one, 0, 3, 2) == expected[3:5]
    assert read(other, 0, 0, 3) == expected[:3]
    assert read(one, 0, 0, 2) == expected[:2]  # of a worker that was lost, once more
    for feed in (plain, one, other):
        feed.close()


def test_the_parts_of_a_batch_are_the_whole():
    whole, reader = source_feed(), IndexReader(source_feed, parts=3)
    expected = np.asarray(whole.pull(2, 1).values[0])
    parts = [reader.read(BatchIndex(0, 2), 1, part) for part in (2, 0, 1)]
    found = {int(s.offsets[0]): np.asarray(s.values[0])[: s.counts[0]] for s in parts}
    assert np.concatenate([found[at] for at in sorted(found)]).tolist() == expected.tolist()
    assert {int(s.sizes[0]) for s in parts} == {4}
    whole.close(), reader.close()


def test_the_parts_of_a_datasets_batch_are_the_whole():
    reader = IndexReader(dataset_feed, parts=3)
    parts = [reader.read(BatchIndex(0, 1), 1, part) for part in range(3)]
    found = [np.asarray(s.values[0])[: s.counts[0]].tolist() for s in parts]
    assert functools.reduce(operator.iadd, found, []) == [4, 5, 6, 7]


@pytest.mark.parametrize("shuffled", [False, True])
def test_workers_that_share_a_dataset_read_each_batch_once_in_each_pass(shuffled):
    make = functools.partial(dataset_feed, shuffled=shuffled)
    one, other = IndexReader(make), IndexReader(make)
    for passes in range(3):
        found = read(one, passes, 0, 2) + read(other, passes, 2, 2) + read(one, passes, 4, 2)
        assert sorted(functools.reduce(operator.iadd, found, [])) == list(range(20))
        assert read(other, passes, 5, 2) == []  # the pass has ended


def test_a_batch_before_where_a_dataset_stands_is_read_again_from_the_start():
    reader = IndexReader(dataset_feed)
    assert read(reader, 0, 3, 2) == [[12, 13, 14, 15], [16, 17, 18, 19]]
    assert read(reader, 0, 1, 1) == [[4, 5, 6, 7]]
    assert read(reader, 2, 1, 1) == [[4, 5, 6, 7]]  # of a pass that is two later
    assert read(reader, 1, 4, 1) == [[16, 17, 18, 19]]


def test_the_chief_names_batches_until_the_end_that_it_hears_of():
    feed = IndexFeed(dataset_feed(), "input_fn", workers=2, steps_per_loop="auto")
    feed.steps_per_pass = None  # as of a Dataset that does not tell
    first = feed.pull(0, 3)
    assert (first.values, first.steps) == (BatchIndex(0, 0), 3)
    second = feed.pull(3, 4)
    assert second.values == BatchIndex(0, 3)
    feed.mark_end(second, 2)
    assert feed.pull(5, 4).steps == 0
    assert feed.position()["in_pass"] == 5
    feed.next_pass()
    assert feed.pull(5, 2).values == BatchIndex(1, 0)


def test_a_dataset_of_known_length_is_never_asked_for_more():
    feed = IndexFeed(dataset_feed(), "input_fn", workers=2, steps_per_loop="auto")
    assert [feed.pull(0, 3).steps, feed.pull(3, 4).steps, feed.pull(5, 4).steps] == [3, 2, 0]


def test_a_position_is_kept_and_gone_to():
    feed = IndexFeed(dataset_feed(), "input_fn", workers=1, steps_per_loop="auto")
    feed.pull(0, 3)
    again = IndexFeed(dataset_feed(), "input_fn", workers=1, steps_per_loop="auto")
    again.restore_position(feed.position())
    assert again.pull(3, 1).values == BatchIndex(0, 3)


def test_an_empty_pass_is_an_error():
    feed = IndexFeed(dataset_feed(), "input_fn", workers=1, steps_per_loop="auto")
    feed.mark_end(feed.pull(0, 1), 0)
    with pytest.raises(UserError, match="the Dataset is empty"):
        feed.next_pass()


def test_arrays_of_a_stack_go_the_way_to_the_operation():
    feed = dataset_feed()
    *values, counts, sizes, offsets, steps = as_arrays(feed.pull(0, 5), feed.element_spec)
    assert values[0].shape == (5, 4)
    assert int(steps) == 5
    assert counts.tolist() == sizes.tolist() == [4] * 5
    assert offsets.tolist() == [0] * 5
