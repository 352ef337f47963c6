"""TokenSource: windows over tokens, and where documents begin in them."""

import numpy as np
import pytest

from tfbig.data.sources.token_source import TokenSource
from tfbig.errors import UserError


def slow_places(ends, start, length):
    """Segment, position and weight of a window, token by token."""
    document = [int(np.searchsorted(ends, start + i, side="right")) for i in range(length + 1)]
    segment = [document[i] - document[0] for i in range(length)]
    position = [i - document.index(document[i]) for i in range(length)]
    weight = [float(document[i] == document[i + 1]) for i in range(length)]
    return segment, position, weight


def test_an_example_is_a_window_and_the_tokens_that_follow():
    source = TokenSource(np.arange(1000, 1011, dtype=np.uint16), sequence_length=4)
    tokens, following = source.read(np.array([1, 0, 1]))
    assert tokens.tolist() == [
        [1004, 1005, 1006, 1007],
        [1000, 1001, 1002, 1003],
        [1004, 1005, 1006, 1007],
    ]
    np.testing.assert_array_equal(following, tokens + 1)
    assert (tokens.dtype, following.dtype, len(source)) == (np.int32, np.int32, 2)


def test_what_was_read_can_be_written_to_without_harm():
    text = np.arange(9, dtype=np.uint8)
    source = TokenSource(text, sequence_length=4)
    tokens, following = source.read(np.array([0]))
    tokens += 100
    assert following.tolist() == [[1, 2, 3, 4]]
    assert text.tolist() == list(range(9))


@pytest.mark.parametrize("seed", range(5))
def test_boundaries_are_those_of_the_documents_token_by_token(seed):
    random = np.random.default_rng(seed)
    ends = np.cumsum(random.integers(1, 9, size=60))
    length = int(random.integers(1, 12))
    text = np.zeros([ends[-1]], np.uint8)
    source = TokenSource(text, length, ends=ends, boundaries=True)
    indices = random.integers(0, len(source), size=40)
    features, _, weight = source.read(indices)
    for row, index in enumerate(indices):
        expected = slow_places(ends, index * length, length)
        assert features["segment"][row].tolist() == expected[0]
        assert features["position"][row].tolist() == expected[1]
        assert weight[row].tolist() == expected[2]


def test_a_windows_document_is_the_one_that_it_starts_in():
    source = TokenSource(np.zeros([13], np.uint8), 4, ends=np.array([4, 7, 13]))
    assert source.documents.tolist() == [0, 1, 2]
    assert source.documents.dtype == np.int64


def test_no_windows_can_be_read():
    source = TokenSource(np.zeros([9], np.uint8), 4, ends=np.array([9]), boundaries=True)
    features, following, weight = source.read(np.array([], np.int64))
    assert features["segment"].shape == following.shape == weight.shape == (0, 4)


def test_fewer_tokens_than_a_window_are_refused():
    with pytest.raises(UserError, match="^a text of 4 tokens is shorter than one window of 5 toke"):
        TokenSource(np.zeros([4], np.uint16), 4)
