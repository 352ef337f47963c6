"""Token masking and span corruption: rates, what can be put together again, and shards."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from tfbig.data.augmentation import Augmentation, SpanCorruption, TokenMasking
from tfbig.errors import UserError

MASKING = {"name": "TokenMasking", "mask_token": 3, "vocabulary_size": 1000, "special": [0, 1]}
SPANS = {"name": "SpanCorruption", "first_sentinel": 999, "pad": 0}
KEYS = dict(seed=7, step=11, batch_size=24)


def tokens(count=24, length=64, low=10) -> np.ndarray:
    return np.random.default_rng(0).integers(low, 900, (count, length), dtype="int32")


def trained(layer, batch, positions=None, **changes):
    positions = np.arange(len(batch)) if positions is None else positions
    keys = {**KEYS, "batch_size": max(24, len(batch)), **changes}
    return Augmentation([layer]).train(batch, positions=positions, **keys)


# Both.


@pytest.mark.parametrize("layer", [MASKING, SPANS], ids=lambda layer: layer["name"])
@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(shard=st.sets(st.integers(0, 23), min_size=1))
def test_a_shard_is_corrupted_as_in_the_whole_batch(layer, shard):
    shard = sorted(shard)
    whole, part = trained(layer, tokens()), trained(layer, tokens()[shard], shard)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[shard], other)


@pytest.mark.parametrize("layer", [MASKING, SPANS], ids=lambda layer: layer["name"])
def test_other_steps_seeds_and_positions_are_corrupted_otherwise(layer):
    same = np.repeat(tokens(1), 24, axis=0)
    first = trained(layer, same)[0]
    assert not np.array_equal(first, trained(layer, same, step=12)[0])
    assert not np.array_equal(first, trained(layer, same, seed=8)[0])
    assert len(np.unique(first, axis=0)) > 12


@pytest.mark.parametrize("layer", [MASKING, SPANS], ids=lambda layer: layer["name"])
def test_evaluation_asks_the_same_of_the_same_tokens_wherever_they_stand(layer):
    augmentation = Augmentation([layer])
    whole = augmentation.evaluate(tokens())
    some = augmentation.evaluate(tokens()[[5, 2]].astype("int64"))
    for one, other in zip(whole, some, strict=True):
        np.testing.assert_array_equal(one[[5, 2]], other)
    assert not np.array_equal(whole[0], trained(layer, tokens())[0])


@pytest.mark.parametrize("layer", [MASKING, SPANS], ids=lambda layer: layer["name"])
def test_the_spec_is_that_of_what_comes_out(layer):
    augmentation = Augmentation([layer], key="text")
    features, *others = augmentation.output_spec(
        {"text": tf.TensorSpec([64], tf.int32), "id": tf.TensorSpec([], tf.int64)}
    )
    assert set(features) == {"text", "id"}
    batch = {"text": tokens(), "id": np.arange(24)}
    for out in (
        augmentation.train(batch, positions=np.arange(24), **KEYS),
        augmentation.evaluate(batch),
    ):
        for leaf, spec in zip(out, (features, *others), strict=True):
            leaf, spec = (a["text"] if isinstance(a, dict) else a for a in (leaf, spec))
            assert tf.TensorSpec(leaf.shape[1:], leaf.dtype) == spec


@pytest.mark.parametrize("layer", [MASKING, SPANS], ids=lambda layer: layer["name"])
@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (tokens().astype("float32"), r"integers of shape \[length\]; received float32 .*\[64\]"),
        (tokens()[:, 0], r"received int32 of shape \[\]"),
        ((tokens(), tokens()), r"creates the labels .*source\.map\(lambda batch: batch\[0\]\)"),
    ],
)
def test_what_is_no_sequence_of_tokens_alone_is_refused(layer, batch, words):
    with pytest.raises(UserError, match=rf"^{layer['name']} .*{words}"):
        Augmentation([layer]).evaluate(batch)


# Masking.


def test_15_percent_are_chosen_of_which_80_are_masked_10_random_and_10_kept():
    x = tokens(2000, 100)
    masked, labels, weight = trained(MASKING, x)
    np.testing.assert_array_equal(labels, x)
    chosen = weight == 1
    np.testing.assert_array_equal(masked[~chosen], x[~chosen])
    n = chosen.sum()
    assert abs(n / x.size - 0.15) < 4 * (0.15 * 0.85 / x.size) ** 0.5
    mask, kept = masked[chosen] == 3, masked[chosen] == x[chosen]
    # A random token is the mask or the token itself once in a thousand times.
    assert abs(mask.mean() - 0.8001) < 4 * (0.8 * 0.2 / n) ** 0.5
    assert abs(kept.mean() - 0.1001) < 4 * (0.1 * 0.9 / n) ** 0.5
    random = masked[chosen][~mask & ~kept]
    assert random.min() < 10
    assert random.max() > 990
    assert abs(random.mean() - 499.5) < 4 * 288.7 / len(random) ** 0.5


def test_special_tokens_are_never_chosen():
    x = np.random.default_rng(0).integers(0, 4, (200, 50))
    weight = trained(MASKING, x)[2]
    assert weight[x <= 1].sum() == 0
    assert weight[x > 1].sum() > 500


def test_the_shares_can_be_set():
    x = tokens(200)
    masked, _, weight = trained({**MASKING, "masked": 1.0, "random": 0.0, "rate": 0.5}, x)
    assert (masked[weight == 1] == 3).all()
    assert 0.48 < weight.mean() < 0.52


# Spans.


def restored(inputs, targets, pad=0, first_sentinel=999, lowest=900):
    """The text again, from inputs and targets; how many spans; and that all is well-formed."""
    spans, current = {}, None
    for token in targets[targets != pad]:
        if token > lowest:
            current = int(token)
            spans[current] = []
        else:
            spans[current].append(int(token))
    count = len(spans) - 1
    assert list(spans) == [first_sentinel - i for i in range(count + 1)]
    assert spans.pop(first_sentinel - count) == []  # the last one ends the targets
    text = []
    for token in inputs[inputs != pad].tolist():
        text += spans.pop(token) if token > lowest else [token]
    assert not spans
    return text, count


def test_inputs_and_targets_together_are_the_text():
    x = tokens(200, 100)
    inputs, targets, weight = trained(SPANS, x)
    # 15 tokens in 5 spans: 85 and 5 sentinels remain; 15, 5 sentinels and the last one go
    assert inputs.shape == (200, 90)
    assert targets.shape == (200, 21)
    for i in range(200):
        text, count = restored(inputs[i], targets[i])
        assert text == x[i].tolist()
        assert count == 5
    np.testing.assert_array_equal(weight, 1)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    width=st.integers(30, 33),
    rate=st.sampled_from([0.02, 0.15, 0.5, 0.9]),
    mean=st.sampled_from([1, 2.5, 3, 10]),
    step=st.integers(0, 1000),
)
def test_texts_of_any_length_rate_and_mean_come_together_again(lengths, width, rate, mean, step):
    x = tokens(len(lengths), width)
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    layer = {**SPANS, "rate": rate, "mean_length": mean}
    inputs, targets, weight = trained(layer, x, step=step)
    for i, length in enumerate(lengths):
        text, count = restored(inputs[i], targets[i])
        assert text == x[i, :length].tolist()
        taken = np.sum((targets[i] != 0) & (targets[i] < 900))
        assert taken == (min(max(round(length * rate), 1), length - 1) if length > 1 else 0)
        assert weight[i].sum() == taken + count + 1
        np.testing.assert_array_equal(weight[i] == 1, targets[i] != 0)


def test_spans_begin_anywhere_and_have_various_lengths():
    x = np.repeat(np.arange(1, 101)[None], 3000, axis=0)
    _inputs, targets, _ = trained(SPANS, x)
    taken = np.array([np.isin(np.arange(1, 101), row) for row in targets])
    share = taken.mean(axis=0)
    assert np.abs(share[5:-5] - 0.15).max() < 0.05
    assert 0.02 < share[0] < 0.15
    assert 0.02 < share[-1] < 0.15
    starts = np.flatnonzero(targets[0] > 900)
    assert len(set(np.diff(starts))) > 1


def test_lengths_can_be_set_and_must_suffice():
    long = {**SPANS, "inputs_length": 128, "targets_length": 32}
    inputs, targets, weight = trained(long, tokens(4, 100))
    assert inputs.shape == (4, 128)
    assert targets.shape == weight.shape == (4, 32)
    assert (inputs[:, 90:] == 0).all()
    assert weight.sum() == 4 * 21
    with pytest.raises(
        UserError, match=r"^SpanCorruption: targets_length=20 .* 100 tokens need 21"
    ):
        trained({**SPANS, "targets_length": 20}, tokens(4, 100))


def test_too_few_sentinels_are_refused():
    with pytest.raises(UserError, match=r"^SpanCorruption: 5 spans need .*first_sentinel=4"):
        trained({**SPANS, "first_sentinel": 4}, tokens(4, 100))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TokenMasking(-1, 10), r"TokenMasking: mask_token=-1"),
        (lambda: TokenMasking(1, 0), r"vocabulary_size=0: expected an integer, 1 or more"),
        (lambda: TokenMasking(1, 10, rate=15), r"rate=15: expected a fraction between"),
        (lambda: TokenMasking(1, 10, masked=0.8, random=0.3), r"masked \+ random=1\.1"),
        (lambda: SpanCorruption(9.5, 0), r"first_sentinel=9\.5"),
        (lambda: SpanCorruption(9, 0, mean_length=0.5), r"mean_length=0\.5"),
        (lambda: SpanCorruption(9, 0, targets_length=0), r"targets_length=0"),
    ],
)
def test_arguments_out_of_range_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
