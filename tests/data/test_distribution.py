"""Every example once a pass over all workers, in an order that is a function of (seed, step)."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tfbig.data.order.distribution import (
    BlockDistribution,
    MixtureDistribution,
    RandomDistribution,
    RoundRobinBlockDistribution,
    allocate_slots,
)
from tfbig.errors import UserError

KINDS = {"random": RandomDistribution, "block": BlockDistribution}
SHAPES = dict(
    length=st.integers(1, 300),
    batch_size=st.integers(1, 70),
    workers=st.integers(1, 9),
    seed=st.integers(0, 2**31 - 1),
)
kinds = pytest.mark.parametrize("kind", KINDS)


def shares(kind, length, batch_size, seed, workers):
    return [KINDS[kind](length, batch_size, seed, w, workers) for w in range(workers)]


@kinds
@settings(max_examples=60, deadline=None)
@given(**SHAPES, number=st.integers(0, 10**6))
def test_each_pass_has_every_example_exactly_once_over_all_workers(
    kind, length, batch_size, seed, workers, number
):
    everyone = shares(kind, length, batch_size, seed, workers)
    steps = everyone[0].steps_per_pass
    assert steps == -(-length // batch_size)
    read = [share.batches(number * steps, steps) for share in everyone]
    numbers = np.concatenate([batches.numbers for batches in read])
    assert sorted(numbers) == list(range(length))
    sizes = np.sum([batches.counts for batches in read], axis=0)
    assert sizes.tolist() == [min(batch_size, length - b * batch_size) for b in range(steps)]
    for share, batches in zip(everyone, read, strict=True):
        assert batches.counts.max() <= share.rows


@kinds
@settings(max_examples=40, deadline=None)
@given(**SHAPES, step=st.integers(0, 10**9), steps=st.integers(1, 5))
def test_the_places_of_all_shares_fill_each_global_batch(
    kind, length, batch_size, seed, workers, step, steps
):
    everyone = shares(kind, length, batch_size, seed, workers)
    places = [[] for _ in range(steps)]
    for share in everyone:
        batches = share.batches(step, steps)
        for i, own in enumerate(np.split(batches.positions, np.cumsum(batches.counts)[:-1])):
            places[i] += own.tolist()
            assert own.tolist() == sorted(own)
    for i in range(steps):
        batch = (step + i) % everyone[0].steps_per_pass
        assert sorted(places[i]) == list(range(min(batch_size, length - batch * batch_size)))


@settings(max_examples=40, deadline=None)
@given(**SHAPES, step=st.integers(0, 10**9))
def test_random_has_the_same_global_batch_for_any_number_of_workers(
    length, batch_size, seed, workers, step
):
    alone = RandomDistribution(length, batch_size, seed).batches(step, 1)
    together = np.empty_like(alone.numbers)
    for share in shares("random", length, batch_size, seed, workers):
        batches = share.batches(step, 1)
        together[batches.positions] = batches.numbers
    np.testing.assert_array_equal(together, alone.numbers)


@settings(max_examples=40, deadline=None)
@given(**SHAPES, number=st.integers(0, 1000))
def test_block_keeps_each_worker_in_its_own_contiguous_block(
    length, batch_size, seed, workers, number
):
    end = 0
    for share in shares("block", length, batch_size, seed, workers):
        steps = share.steps_per_pass
        numbers = share.batches(number * steps, steps).numbers
        assert share.block[0] == end
        end = share.block[1]
        assert sorted(numbers) == list(range(*share.block))
    assert end == length


@kinds
def test_passes_workers_and_seeds_have_different_orders(kind):
    def order(seed, number, worker):
        return tuple(KINDS[kind](200, 10, seed, worker, 2).batches(20 * number, 20).numbers)

    orders = {order(s, n, w) for s in (0, 1) for n in (0, 1, 2) for w in (0, 1)}
    assert len(orders) == 12
    within = order(0, 0, 1)
    assert list(within) != sorted(within)


@kinds
@settings(max_examples=30, deadline=None)
@given(**SHAPES, step=st.integers(0, 10**6), steps=st.integers(2, 8))
def test_batches_read_together_are_those_read_alone(
    kind, length, batch_size, seed, workers, step, steps
):
    share = KINDS[kind](length, batch_size, seed, workers - 1, workers)
    together = share.batches(step, steps)
    alone = [share.batches(step + i, 1) for i in range(steps)]
    for field in ("numbers", "positions", "counts"):
        np.testing.assert_array_equal(
            getattr(together, field), np.concatenate([getattr(batch, field) for batch in alone])
        )


def test_without_a_seed_the_order_is_the_sources_own():
    assert RandomDistribution(7, 3, None).batches(0, 4).numbers.tolist() == [*range(7), 0, 1, 2]


def mixture(weights=(3, 1), lengths=(50, 7), batch_size=16, worker=0, workers=1, seed=4):
    return MixtureDistribution(lengths, weights, batch_size, seed, worker, workers)


def test_a_mixture_draws_by_its_weights_exactly_in_each_period():
    numbers = mixture(weights=(0.7, 0.2, 0.1), lengths=(5000, 300, 20), batch_size=1000)
    for step in (0, 1, 12345):
        drawn = np.digitize(numbers.batches(step, 1).numbers, [5000, 5300])
        assert np.bincount(drawn).tolist() == [700, 200, 100]


def test_each_source_of_a_mixture_goes_through_its_own_passes():
    numbers = mixture().batches(0, 2000).numbers  # 32 periods of 1000
    for first, length in ((0, 50), (50, 7)):
        own = numbers[(numbers >= first) & (numbers < first + length)] - first
        times = np.bincount(own, minlength=length)
        assert times.max() - times.min() <= 1
        passes = own[: len(own) // length * length].reshape(-1, length)
        assert len({tuple(p) for p in passes[:6]}) == 6


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 10**9), steps=st.integers(1, 4), workers=st.integers(1, 5))
def test_a_mixture_depends_on_seed_and_step_alone(step, steps, workers):
    alone = mixture().batches(step, steps)
    assert alone.counts.tolist() == [16] * steps
    pieces = [mixture(worker=w, workers=workers).batches(step, steps) for w in range(workers)]
    for i in range(steps):
        together = np.empty([16], np.int64)
        for piece in pieces:
            rows = slice(*(piece.counts[:i].sum(), piece.counts[: i + 1].sum()))
            together[piece.positions[rows]] = piece.numbers[rows]
        np.testing.assert_array_equal(together, alone.numbers[16 * i : 16 * i + 16])
    assert not np.array_equal(
        mixture(seed=5).batches(step, 4).numbers, mixture().batches(step, 4).numbers
    )


@pytest.mark.parametrize(
    ("weights", "slots"),
    [((1,), [1000]), ((2, 1), [667, 333]), ((1, 1, 1), [334, 333, 333]), ((999, 1), [999, 1])],
)
def test_weights_become_slots_of_a_thousand(weights, slots):
    assert allocate_slots(weights).tolist() == slots


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ((1, 0), "expected one positive number per source"),
        ((1, float("nan")), "expected one positive number"),
        ((), "expected one positive number"),
        ((10_000, 1), "1 is less than a thousandth of their sum; remove that source"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, says):
    with pytest.raises(UserError, match=says):
        allocate_slots(weights)


def test_a_worker_that_is_none_of_them_is_refused():
    with pytest.raises(UserError, match="worker=2: expected 0 to 1, as workers=2"):
        RandomDistribution(10, 2, 0, worker=2, workers=2)


@settings(max_examples=60, deadline=None)
@given(**SHAPES, number=st.integers(0, 10**6))
def test_blocks_that_take_turns_have_every_example_once_a_pass(
    length, batch_size, workers, seed, number
):
    turns = RoundRobinBlockDistribution(length, batch_size, seed, blocks=workers)
    steps = turns.steps_per_pass
    batches = turns.batches(number * steps, steps)
    assert sorted(batches.numbers) == list(range(length))
    assert batches.counts.tolist() == turns.sizes(0, steps).tolist()
    one_by_one = [turns.batches(number * steps + i, 1).numbers for i in range(steps)]
    assert np.concatenate(one_by_one).tolist() == batches.numbers.tolist()


def test_a_batch_has_the_examples_of_one_block_alone_and_the_blocks_take_turns():
    turns = RoundRobinBlockDistribution(100, 10, seed=3, blocks=3)  # of 4, 3 and 3 batches
    first, second = (np.split(turns.batches(step, 10).numbers, 10) for step in (0, 10))
    blocks = [range(0, 40), range(40, 70), range(70, 100)]
    for batch, (numbers, again) in enumerate(zip(first, second, strict=True)):
        assert all(n in blocks[batch % 3] for n in [*numbers, *again])
        assert numbers.tolist() != again.tolist()
