"""mix: several sources as one."""

import functools
import operator

import numpy as np
import pytest

from tfbig.data import ArraySource, BadRecord, BadRecords, Source, mix
from tfbig.data.cleaning import Cleaning, FillMissing
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError


def numbered(first, length):
    return ArraySource(np.arange(first, first + length))


def test_a_mixture_reads_its_sources_one_after_the_other_by_number():
    source = mix([numbered(0, 5), numbered(100, 3), numbered(200, 4)], [1, 1, 1])
    assert len(source) == 12
    numbers = np.array([11, 0, 5, 7, 4, 8, 0])
    assert source.read(numbers).tolist() == [203, 0, 100, 102, 4, 200, 0]


def labels_of(feed, step, steps):
    stack = feed.pull(step, steps)
    values = np.asarray(stack.values)
    return [values[i, : stack.counts[i]].tolist() for i in range(stack.steps)]


def feed_of(source, **keywords):
    return SourceFeed(source, seed=3, multiple=1, steps_per_loop=10, **keywords)


def test_training_draws_by_the_weights_and_resumes_anywhere():
    source = mix([numbered(0, 1000), numbered(5000, 10)], [0.9, 0.1]).batch(100)
    feed = feed_of(source)
    assert feed.steps_per_pass == 11
    batches = labels_of(feed, 0, 10)
    assert sum(n >= 5000 for batch in batches for n in batch) == 100
    assert labels_of(feed_of(source), 7, 3) == batches[7:]
    assert sorted(n for b in batches for n in b if n >= 5000) == sorted([*range(5000, 5010)] * 10)


def test_the_weights_go_along_with_map_and_batch():
    source = mix([numbered(0, 50), numbered(500, 50)], [0.75, 0.25]).map(lambda n: n * 2).batch(100)
    drawn = functools.reduce(operator.iadd, labels_of(feed_of(source), 0, 10), [])
    assert sum(n >= 1000 for n in drawn) == 250


def test_without_weights_all_examples_are_drawn_equally_often():
    feed = feed_of(mix([numbered(0, 30), numbered(30, 10)]).batch(40))
    drawn = [n for step in range(0, 100, 10) for batch in labels_of(feed, step, 10) for n in batch]
    assert np.bincount(drawn).tolist() == [100] * 40


def test_evaluation_reads_every_example_once_in_order():
    source = mix([numbered(0, 5), numbered(5, 3)], [0.9, 0.1]).batch(3)
    feed = feed_of(source, order="own", training=False)
    assert labels_of(feed, 0, feed.steps_per_pass) == [[0, 1, 2], [3, 4, 5], [6, 7]]


class Broken(Source):
    def __len__(self):
        return 4

    def read(self, indices):
        places = np.flatnonzero(indices == 2)
        if len(places):
            raise BadRecords([BadRecord("f", 2, "broken", int(place)) for place in places])
        return indices


def test_a_bad_record_of_a_part_is_reported_at_its_place():
    source = mix([numbered(0, 3), Broken()])
    with pytest.raises(BadRecords) as caught:
        source.read(np.array([0, 5, 1, 3, 5]))
    assert [bad.position for bad in caught.value.found] == [1, 4]


@pytest.mark.parametrize(
    ("sources", "weights", "says"),
    [
        ([], None, "mix: no sources were given"),
        ([[1, 2]], None, "mix: expected Sources, received a list"),
        ([numbered(0, 2)], [1, 2], "mix: 1 sources and 2 weights"),
        ([numbered(0, 2), numbered(0, 2)], [1, -1], "one positive number per source"),
        ([numbered(0, 2), ArraySource(np.zeros([2, 3]))], None, "source 1 has elements"),
        ([mix([numbered(0, 2)])], None, "a source is already a mixture or augmented"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sources, weights, says):
    with pytest.raises(UserError, match=says):
        mix(sources, weights)


def test_a_mixture_has_no_blocks_and_no_selection():
    source = mix([numbered(0, 5), numbered(0, 5)]).batch(2)
    with pytest.raises(UserError, match='use data_distribution="random"'):
        feed_of(source, order="block")
    with pytest.raises(UserError, match="select from its sources, then mix"):
        source.select([0])


def test_a_mixture_has_the_cleaning_that_all_its_sources_have():
    cleaning, other = Cleaning([FillMissing()]), Cleaning([FillMissing()])
    numbers = [ArraySource(np.array([1.0, np.nan, 5.0])) for _ in range(3)]
    first, second = cleaning.fit(numbers[0]), cleaning.apply(numbers[1])
    assert mix([first, second]).cleaning is cleaning
    assert not mix([first, second]).mapped_after_cleaning
    assert mix([first, second.map(lambda n: n * 2)]).mapped_after_cleaning
    assert mix([first, other.fit(numbers[2])]).cleaning is None
