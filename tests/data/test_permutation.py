"""permute: a permutation for each (seed, stream), computed where it is needed."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tfbig.data.order.permutation import permute


def order(length, seed=1, stream=0):
    return permute(np.arange(length), seed, np.full(length, stream), length)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**31 - 1), st.integers(0, 2**62))
def test_it_is_a_permutation_of_any_length(length, seed, stream):
    assert sorted(order(length, seed, stream)) == list(range(length))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.lists(st.integers(0, 3), min_size=1, max_size=40), st.randoms())
def test_any_positions_of_any_streams_in_any_order_are_those_of_the_whole(length, streams, random):
    positions = np.array([random.randrange(length) for _ in streams])
    whole = {stream: order(length, 5, stream) for stream in streams}
    found = permute(positions, 5, np.array(streams), length)
    assert found.tolist() == [whole[s][p] for s, p in zip(streams, positions, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_all_permutations_of_a_few_are_about_equally_frequent(length):
    times, kinds = 6000, math.factorial(length)
    seen = collections.Counter(tuple(order(length, 3, stream)) for stream in range(times))
    expected = times / kinds
    chi2 = sum((seen[kind] - expected) ** 2 / expected for kind in seen)
    chi2 += (kinds - len(seen)) * expected
    assert chi2 < kinds + 5 * math.sqrt(2 * kinds)


def test_the_places_of_an_example_and_the_distances_of_neighbours_are_spread_evenly():
    length, streams = 1000, 4000
    positions = np.tile([0, 1], streams)
    found = permute(positions, 9, np.repeat(np.arange(streams), 2), length).reshape(-1, 2)
    for values in (found[:, 0], (found[:, 1] - found[:, 0]) % length):
        counts = np.bincount(values // 100, minlength=10)
        assert counts.sum() == streams
        chi2 = ((counts - 400) ** 2 / 400).sum()
        assert chi2 < 30  # 9 degrees of freedom


@pytest.mark.parametrize("length", [2**40, 10**12 + 39, 2**62])
def test_lengths_beyond_memory_work(length):
    positions = np.array([0, 1, length // 2, length - 1])
    found = permute(positions, 3, np.zeros(4, np.int64), length)
    assert len(set(found.tolist())) == 4
    assert found.min() >= 0
    assert found.max() < length
    assert found.max() > length // 1000


def test_the_permutation_is_the_same_in_every_version():
    """A run that is resumed with a newer tfbig goes on with the same batches."""
    assert order(8, 3, 5).tolist() == GOLDEN_8
    assert order(1000, 2**31 - 1, 7)[:6].tolist() == GOLDEN_1000


GOLDEN_8, GOLDEN_1000 = [0, 6, 5, 2, 1, 7, 4, 3], [896, 89, 942, 626, 703, 577]
