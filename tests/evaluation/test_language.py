"""Perplexity and bits per byte on the host."""

import math

import keras
import numpy as np
import pytest
import sklearn.metrics as sk

from tfbig.errors import UserError
from tfbig.evaluation.metrics import BitsPerByte as KerasBitsPerByte
from tfbig.metrics import language
from tfbig.metrics.language import BitsPerByte, Perplexity, TokenReader
from tfbig.metrics.metric import results, update_all
from tfbig.metrics.tasks import metrics_for

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 256, [4, 6])
LOGITS = (3 * RANDOM.normal(size=[4, 6, 256])).astype(np.float32)
MASK = RANDOM.integers(0, 2, [4, 6])


def softmax(logits):
    chances = np.exp(logits.astype(np.float64))
    return chances / chances.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("weights", [None, MASK, MASK.astype(bool), MASK * 2.5])
def test_both_are_the_cross_entropy_of_the_weighted_tokens(weights):
    metrics = metrics_for("language")
    for part in (slice(0, 1), slice(1, 4)):
        update_all(metrics, LABELS[part], LOGITS[part], None if weights is None else weights[part])
    nats = sk.log_loss(
        LABELS.reshape(-1),
        softmax(LOGITS).reshape(-1, 256),
        labels=range(256),
        sample_weight=None if weights is None else weights.reshape(-1),
    )
    got = results(metrics)
    assert got["perplexity"] == pytest.approx(math.exp(nats), rel=1e-6)
    assert got["bits_per_byte"] == pytest.approx(nats / math.log(2), rel=1e-6)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.0, 2.0, 1.0]), MASK])
def test_the_host_agrees_with_the_keras_metric(weights):
    keras_metric, host = KerasBitsPerByte(), BitsPerByte()
    keras_metric.update_state(
        LABELS,
        LOGITS,
        sample_weight=None if weights is None else keras.ops.array(weights, "float32"),
    )
    host.update(LABELS, LOGITS, weights)
    assert host.result() == pytest.approx(float(keras_metric.result()), rel=1e-5)


def test_probabilities_give_the_same():
    metric = Perplexity()
    metric.update(LABELS, softmax(LOGITS))
    other = Perplexity()
    other.update(LABELS, LOGITS)
    assert metric.result() == pytest.approx(other.result(), rel=1e-9)


def test_a_vocabulary_too_large_for_one_softmax_gives_the_same(monkeypatch):
    whole = TokenReader()(LABELS, LOGITS).nats
    monkeypatch.setattr(language, "_MOST_LOGITS", 256 * 5)  # 24 tokens in parts of 5
    np.testing.assert_array_equal(TokenReader()(LABELS, LOGITS).nats, whole)


def test_a_uniform_prediction_has_eight_bits_and_a_perplexity_of_256():
    metrics = metrics_for("language")
    update_all(metrics, np.arange(256)[None], np.zeros([1, 256, 256]))
    assert results(metrics) == pytest.approx({"perplexity": 256, "bits_per_byte": 8})


def test_masked_labels_are_ignored():
    labels = np.where(MASK > 0, LABELS, -1)
    metric, expected = Perplexity(), Perplexity()
    metric.update(labels, LOGITS, MASK)
    expected.update(LABELS, LOGITS, MASK)
    assert metric.result() == expected.result()
    with pytest.raises(UserError, match="a label is -1"):
        metric.update(labels, LOGITS)


def test_tokens_of_several_bytes_are_counted_by_their_bytes():
    metric = BitsPerByte(token_bytes=[1, 4])
    metric.update([[0, 1, 1]], np.zeros([1, 3, 2]))
    assert metric.result() == pytest.approx(3 / 9)
    with pytest.raises(UserError, match="token_bytes has 1 entries, but a label is 1"):
        BitsPerByte(token_bytes=[1]).update([1], np.zeros([1, 2]))


def test_a_token_of_probability_0_makes_the_perplexity_infinite():
    metric = Perplexity()
    metric.update([1], [[0.0, -np.inf]])
    assert metric.result() == math.inf
    assert math.isnan(Perplexity().result())
