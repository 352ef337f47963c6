"""SourceFeed with bad records, several threads, several workers and augmentation."""

import functools
import operator
import threading

import keras
import numpy as np
import pytest

import tfbig
from tfbig.data import ArraySource, BadRecord, BadRecords, Source
from tfbig.data.bad_records import Quarantine
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError


def feed_of(source, *, seed=7, multiple=1, steps_per_loop=10, **keywords):
    return SourceFeed(
        source, seed=seed, multiple=multiple, steps_per_loop=steps_per_loop, **keywords
    )


def batches_of(feed, step, steps):
    """Each batch of a stack, padding left out."""
    stack = feed.pull(step, steps)
    values = np.asarray(stack.values)
    return [values[i, : stack.counts[i]].tolist() for i in range(stack.steps)]


class Flawed(Source):
    """Numbers, some of which cannot be read."""

    def __init__(self, length, bad, quarantine=None):
        self.length, self.bad, self.quarantine = length, bad, quarantine

    def __len__(self):
        return self.length

    def read(self, indices):
        places = np.flatnonzero(np.isin(indices, self.bad))
        if len(places):
            found = [BadRecord("data", int(indices[p]), "broken", int(p)) for p in places]
            raise BadRecords(found, self.quarantine)
        return indices


def test_bad_records_make_their_batches_smaller_and_go_to_quarantine(tmp_path, caplog):
    quarantine = Quarantine(tmp_path / "bad.jsonl")
    whole = feed_of(Flawed(23, []).batch(5))
    feed = feed_of(Flawed(23, [3, 4, 20], quarantine).batch(5))
    for step, steps in ((0, 5), (5, 3), (8, 4)):
        expected = [
            [n for n in batch if n not in (3, 4, 20)] for batch in batches_of(whole, step, steps)
        ]
        assert batches_of(feed, step, steps) == expected
    feed.close()
    assert quarantine.count == len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3
    feed.close()
    assert caplog.text.count("skipped bad records: 3") == 1


def test_a_bad_record_is_an_error_unless_it_may_be_left_out():
    feed = feed_of(Flawed(23, [3]).batch(5))
    with pytest.raises(BadRecords, match=r"^data, record 3: broken\. Repair the data, or skip"):
        feed.pull(0, 5)


def test_a_step_of_bad_records_alone_trains_on_the_examples_of_the_next(tmp_path):
    quarantine = Quarantine(tmp_path / "bad.jsonl")
    keywords = dict(order="own", steps_per_loop=3)
    feed = feed_of(Flawed(8, [2, 3, 5], quarantine).batch(2), **keywords)
    assert batches_of(feed, 0, 3) == [[0, 1], [4], [4]]
    assert batches_of(feed, 1, 1) == [[4]]
    assert batches_of(feed_of(Flawed(8, [2, 3, 5], quarantine).batch(2), **keywords), 1, 2) == [
        [4],
        [4],
    ]
    hopeless = feed_of(Flawed(300, range(100, 300), quarantine).batch(1), **keywords)
    with pytest.raises(UserError, match="of the 100 steps from step 120 on are bad records"):
        hopeless.pull(120, 1)


@pytest.mark.parametrize("bad", [[20], [0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 20]])
def test_a_batch_of_bad_records_alone_adds_nothing_to_an_evaluation(tmp_path, bad):
    quarantine = Quarantine(tmp_path / "bad.jsonl")

    def pairs(bad):
        numbers = Flawed(21, bad, quarantine)
        return numbers.map(lambda n: (n[:, None].astype("float32"),) * 2).batch(5)

    def build():
        zeros = keras.layers.Dense(1, kernel_initializer="zeros", trainable=False)
        model = keras.Sequential([keras.Input((1,)), zeros, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    result = tfbig.train_distributed(
        build, lambda: pairs([]), eval_input_fn=lambda: pairs(bad), max_steps=1
    )
    good = np.setdiff1d(np.arange(21), bad)
    np.testing.assert_allclose(result.metrics["loss"], np.mean(good**2.0), rtol=1e-6)


class Threaded(Source):
    """Notes the threads that read at the same time."""

    threads = 4

    def __init__(self):
        self.together, self.barrier = set(), threading.Barrier(4, timeout=20)

    def __len__(self):
        return 1000

    def read(self, indices):
        if len(indices) > 1:
            self.barrier.wait()
            self.together.add(threading.get_ident())
        return indices


def test_a_source_for_several_threads_is_read_by_them_at_once_in_the_same_order():
    source = Threaded()
    feed, alone = feed_of(source.batch(100)), feed_of(Flawed(1000, []).batch(100))
    assert batches_of(feed, 3, 5) == batches_of(alone, 3, 5)
    feed.close()
    assert len(source.together) == 4


@pytest.mark.parametrize("order", ["random", "block"])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_read_their_shares_of_each_global_batch_and_nothing_else(order, workers):
    everyone = [
        feed_of(ArraySource(np.arange(50)).batch(8), order=order, worker=w, workers=workers)
        for w in range(workers)
    ]
    shares = [batches_of(feed, 0, 7) for feed in everyone]
    sizes = [sum(len(share[i]) for share in shares) for i in range(7)]
    assert sizes == [8] * 6 + [2]
    assert sorted(n for share in shares for batch in share for n in batch) == list(range(50))
    if order == "random":
        whole = batches_of(feed_of(ArraySource(np.arange(50)).batch(8)), 0, 7)
        assert [
            functools.reduce(operator.iadd, (share[i] for share in shares), []) for i in range(7)
        ] == whole


class Mixing:
    """Adds to each example its partner's number, the next place of the batch, and the step."""

    def output_spec(self, spec):
        return spec

    def needed(self, *, seed, step, positions, batch_size):
        return np.unique(np.concatenate([positions, (positions + 1) % batch_size]))

    def train(self, batch, *, seed, step, positions, batch_size, wanted):
        own = batch[np.searchsorted(positions, wanted)]
        partner = batch[np.searchsorted(positions, (wanted + 1) % batch_size) % len(batch)]
        return own * 1_000_000 + partner * 1000 + step

    def evaluate(self, batch):
        return -batch


def mixing(length=48, batch_size=8):
    source = ArraySource(np.arange(length)).batch(batch_size)
    source.augmentation = Mixing()
    return source


def test_augmentation_sees_the_step_and_the_places_of_each_batch():
    numbers = batches_of(feed_of(ArraySource(np.arange(48)).batch(8)), 4, 4)
    expected = [
        [n * 1_000_000 + batch[(p + 1) % 8] * 1000 + 4 + i for p, n in enumerate(batch)]
        for i, batch in enumerate(numbers)
    ]
    assert batches_of(feed_of(mixing()), 4, 4) == expected


@pytest.mark.parametrize("order", ["random", "block"])
def test_partners_of_other_workers_are_read_by_their_numbers(order):
    workers = [feed_of(mixing(), order=order, worker=w, workers=3) for w in range(3)]
    together = [
        functools.reduce(operator.iadd, parts, [])
        for parts in zip(*(batches_of(f, 0, 6) for f in workers), strict=True)
    ]
    if order == "random":
        assert together == batches_of(feed_of(mixing()), 0, 6)
    for step, batch in enumerate(together):
        own = [value // 1_000_000 for value in batch]
        assert [value // 1000 % 1000 for value in batch] == own[1:] + own[:1]
        assert {value % 1000 for value in batch} == {step}


def test_evaluation_is_not_augmented_at_random():
    feed = feed_of(mixing(length=5, batch_size=3), order="own", training=False)
    assert batches_of(feed, 0, 2) == [[0, -1, -2], [-3, -4]]


def test_a_run_tells_of_bad_records_in_evaluation_and_leaves_no_threads(tmp_path, caplog):
    quarantine = Quarantine(tmp_path / "bad.jsonl")

    def pairs(bad):
        numbers = Flawed(20, bad, quarantine)
        return numbers.map(lambda n: (n[:, None].astype("float32"),) * 2).batch(5)

    def build():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    before = set(threading.enumerate())  # other tests' threads live as long as their garbage does
    tfbig.train_distributed(build, lambda: pairs([]), eval_input_fn=lambda: pairs([7]), max_steps=2)
    assert caplog.text.count("skipped bad records: 1") == 1
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("tfbig-read")]
