"""SourceFeed: batches in an order that is a function of (seed, step)."""

import functools
import operator
import threading

import numpy as np
import pytest
import tensorflow as tf

from tfbig.data import ArraySource, Source
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError


def numbered(length=23, batch_size=5):
    """Examples that say their own number."""
    return ArraySource((np.arange(length) * 2, np.arange(length))).batch(batch_size)


def feed_of(source=None, *, seed=7, multiple=1, steps_per_loop="auto"):
    source = numbered() if source is None else source
    order = "own" if seed is None else "random"
    return SourceFeed(
        source, seed=seed, multiple=multiple, steps_per_loop=steps_per_loop, order=order
    )


def labels_of(stack):
    """The labels of each batch of a stack, padding left out."""
    labels = np.asarray(stack.values[1])
    return [labels[i, : stack.counts[i]].tolist() for i in range(stack.steps)]


@pytest.mark.parametrize("length", [1, 2, 23, 64, 1000])
def test_each_pass_is_a_permutation_of_all_examples(length):
    feed = feed_of(numbered(length, 5))
    orders = []
    for number in range(3):
        steps = range(number * feed.steps_per_pass, (number + 1) * feed.steps_per_pass)
        orders.append([int(n) for step in steps for n in feed.batch_numbers(step)])
        assert sorted(orders[-1]) == list(range(length))
    if length > 20:
        assert orders[0] != orders[1] != orders[2] != orders[0]
        assert orders[0] != list(range(length))


def test_the_order_depends_on_seed_and_step_alone():
    first, again, other = feed_of(), feed_of(multiple=4, steps_per_loop=2), feed_of(seed=8)
    forwards = [first.batch_numbers(step).tolist() for step in range(12)]
    assert [again.batch_numbers(s).tolist() for s in reversed(range(12))] == forwards[::-1]
    assert [other.batch_numbers(s).tolist() for s in range(12)] != forwards
    assert labels_of(first.pull(0, 12)) == forwards
    assert labels_of(again.pull(7, 2)) == forwards[7:9]


@pytest.mark.parametrize(
    ("length", "odd"), [(23, 3), (25, None), (4, 4), (5 * 255 + 1, 1), (5 * 256 + 1, None)]
)
def test_the_size_of_the_last_batch_is_known_where_it_comes_often(length, odd):
    assert feed_of(numbered(length, 5)).tail_size == odd


def test_the_last_batch_of_a_pass_is_smaller_and_the_next_pass_follows():
    feed = feed_of()
    assert feed.steps_per_pass == 5
    stack = feed.pull(3, 4)
    assert stack.steps == 4
    assert stack.counts[:4].tolist() == [5, 3, 5, 5]
    assert [len(labels) for labels in labels_of(stack)] == [5, 3, 5, 5]
    numbers, labels = map(np.asarray, stack.values)
    np.testing.assert_array_equal(numbers, labels * 2)  # rows stay together
    assert not labels[1, 3:].any()
    assert not labels[4:].any()
    assert not stack.counts[4:].any()


def test_without_a_seed_the_order_is_the_sources_own_in_every_pass():
    feed = feed_of(seed=None)
    batches = labels_of(feed.pull(0, 6))
    assert functools.reduce(operator.iadd, batches[:5], []) == list(range(23))
    assert batches[5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("multiple", "rows"), [(1, 5), (2, 6), (4, 8), (5, 5), (7, 7)])
def test_stacks_have_rows_for_equal_parts(multiple, rows):
    feed = feed_of(multiple=multiple, steps_per_loop=3)
    assert (feed.batch_size, feed.rows, feed.capacity) == (5, rows, 3)
    stack = feed.pull(0, 2)
    assert stack.values[0].shape == (3, rows)
    assert stack.counts.tolist() == [5, 5, 0]
    assert feed.element_spec == (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.int64))


def test_an_automatic_stack_holds_100_batches_and_at_most_32_mib():
    assert feed_of().capacity == 100
    wide = ArraySource(np.zeros([64, 2**16], np.float32)).batch(32)  # 8 MiB a batch
    assert feed_of(wide).capacity == 4
    huge = ArraySource(np.zeros([2, 2**24], np.float32)).batch(2)
    assert feed_of(huge).capacity == 1


class Recorded(Source):
    """Notes which examples are read, and by how many threads."""

    def __init__(self, length):
        self.length, self.calls, self.seen_threads = length, [], set()

    def __len__(self):
        return self.length

    def read(self, indices):
        self.calls.append(indices.tolist())
        self.seen_threads.add(threading.get_ident())
        return indices * 2, indices


@pytest.mark.parametrize("plan", [[(3, 3)] * 6, [(4, 2), (2, 4), (4, 1), (1, 9), (9, 0)]])
def test_reading_ahead_gives_what_direct_reading_gives_and_reads_nothing_twice(plan):
    source = Recorded(23)
    ahead, direct = feed_of(source.batch(5)), feed_of()
    _ = ahead.element_spec
    source.calls.clear()
    step, numbers = 0, []
    for steps, then in plan:
        stack = ahead.pull(step, steps, then)
        assert labels_of(stack) == labels_of(direct.pull(step, steps))
        step += steps
    ahead.close()
    numbers = functools.reduce(operator.iadd, source.calls, [])
    expected = [n for s in range(step) for n in direct.batch_numbers(s).tolist()]
    ahead_of_the_end = [n for s in range(plan[-1][1]) for n in direct.batch_numbers(step + s)]
    assert numbers in (expected, expected + ahead_of_the_end)  # which close() may have cancelled


def test_a_jump_and_a_shorter_pull_than_was_read_ahead_give_the_right_batches():
    ahead, direct = feed_of(), feed_of()
    ahead.pull(0, 2, read_ahead=4)
    assert labels_of(ahead.pull(2, 3, read_ahead=4)) == labels_of(direct.pull(2, 3))  # shorter
    assert labels_of(ahead.pull(17, 2, read_ahead=1)) == labels_of(direct.pull(17, 2))  # elsewhere
    assert labels_of(ahead.pull(19, 2)) == labels_of(direct.pull(19, 2))  # longer
    ahead.close()


def test_all_batches_are_read_by_one_thread():
    source = Recorded(23)
    feed = feed_of(source.batch(5))
    source.seen_threads.clear()
    for step in (0, 2, 9, 11):
        feed.pull(step, 2, read_ahead=2)
    feed.close()
    assert len(source.seen_threads) == 1


def test_resuming_reads_only_what_is_asked_for():
    source = Recorded(10**6)
    feed = feed_of(source.batch(64))
    source.calls.clear()
    feed.pull(987_654_321, 2)
    assert [len(call) for call in source.calls] == [128]
    assert feed.trackables() == {}
    assert feed.position() == {}


def test_an_error_while_reading_ahead_is_raised_by_the_pull_that_needs_it():
    class Broken(Recorded):
        def read(self, indices):
            if len(self.calls) >= 2:
                raise OSError("disk on fire")
            return super().read(indices)

    feed = feed_of(Broken(23).batch(5))  # the first read is the spec's
    feed.pull(0, 1, read_ahead=1)
    with pytest.raises(OSError, match="disk on fire"):
        feed.pull(1, 1)


@pytest.mark.parametrize("steps_per_loop", [1, 2, 4])
def test_a_stack_without_padding_holds_the_same_as_one_with(steps_per_loop):
    whole = feed_of(numbered(20, 5), steps_per_loop=steps_per_loop)
    padded = feed_of(numbered(20, 5), steps_per_loop=5, multiple=4)
    for step in range(0, 8, steps_per_loop):
        stack = whole.pull(step, steps_per_loop)
        assert stack.values[0].shape == (steps_per_loop, 5)
        assert labels_of(stack) == labels_of(padded.pull(step, steps_per_loop))


def test_strings_are_padded_with_strings():
    words = np.array(["a", "bc", "d"], object)
    stack = feed_of(ArraySource(words).batch(2), seed=None, steps_per_loop=3).pull(0, 2)
    assert tf.convert_to_tensor(stack.values).numpy().tolist() == [
        [b"a", b"bc"],
        [b"d", b""],
        [b"", b""],
    ]


class Changing(Recorded):
    def __init__(self, change):
        super().__init__(23)
        self.change = change

    def read(self, indices):
        batch = {"x": indices.astype(np.float32)[:, None]}, indices
        return self.change(*batch) if len(indices) > 1 else batch


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda x, y: (x["x"], y),
            r"returned \(float32\[\d, 1\], int64\[\d\]\), but the first",
        ),
        (
            lambda x, y: ({"z": x["x"]}, y),
            r"\{z: float32\[\d, 1\]\}.* but the first read returned .*\{x:",
        ),
        (lambda x, y: ({"x": x["x"].astype("i4")}, y), "returned int32 of shape .* is float32 of"),
        (lambda x, y: ({"x": x["x"][:, 0]}, y), r"of shape \(5,\) .* of shape \(1,\)"),
        (lambda x, y: (x, y[:3]), r"int64 of shape \(3,\) for 5 examples"),
    ],
)
def test_data_that_change_their_structure_are_refused_in_one_line(change, says):
    feed = feed_of(Changing(change).batch(5))
    with pytest.raises(UserError, match=says) as caught:
        feed.pull(2, 1)
    message = str(caught.value)
    assert message.startswith("the data changed their structure between batches: at step 2 read()")
    assert "\n" not in message


def test_a_source_without_a_batch_size_or_without_examples_is_refused():
    with pytest.raises(UserError, match=r"the Recorded has no batch size; write return source\."):
        feed_of(Recorded(5))
    with pytest.raises(UserError, match="^Recorded is empty: it has 0 examples"):
        feed_of(Recorded(0).batch(5))
