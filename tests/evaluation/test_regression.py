"""Metrics of regression against scikit-learn on the same predictions."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings, strategies as st

from tfbig.errors import UserError
from tfbig.metrics.metric import results, update_all
from tfbig.metrics.regression import MeanAbsoluteError, RSquared
from tfbig.metrics.tasks import metrics_for


def measured(labels, predictions, weights=None, cuts=(0.1, 0.15, 0.8)):
    metrics = metrics_for("regression")
    ends = [0, *(int(cut * len(labels)) for cut in cuts), len(labels)]
    for start, end in itertools.pairwise(ends):
        part = slice(start, end)
        update_all(
            metrics, labels[part], predictions[part], None if weights is None else weights[part]
        )
    return results(metrics)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 80),
    outputs=st.integers(1, 3),
    offset=st.sampled_from([0.0, 1e6]),
    dtype=st.sampled_from([np.float32, np.float64]),
    weighted=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_they_equal_scikit_learn(seed, size, outputs, offset, dtype, weighted):
    random = np.random.default_rng(seed)
    labels = (offset + random.normal(size=[size, outputs])).astype(dtype)
    predictions = (labels + random.normal(size=[size, outputs]) / 2).astype(dtype)
    weights = random.integers(1, 4, size) / 2 if weighted else None
    got = measured(labels, predictions, weights)
    exact = labels.astype(np.float64), predictions.astype(np.float64)
    expected = {
        "mae": sk.mean_absolute_error(*exact, sample_weight=weights),
        "rmse": sk.root_mean_squared_error(*exact, sample_weight=weights),
    }
    if np.ptp(exact[0], axis=0).min() > 0:
        expected["r2"] = sk.r2_score(*exact, sample_weight=weights)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("labels", [[2.0] * 3, [0.1] * 3, [0.1] * 6])
@pytest.mark.parametrize(("predictions", "r2"), [(None, 1.0), (1.5, 0.0)])
def test_labels_without_spread_give_r2_of_1_or_0(labels, predictions, r2):
    labels = np.array(labels)
    guess = labels if predictions is None else labels * predictions
    assert measured(labels, guess, cuts=())["r2"] == r2


def test_r2_of_fewer_than_two_examples_is_not_defined():
    assert math.isnan(measured(np.array([1.0]), np.array([1.0]))["r2"])
    got = measured(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    assert math.isnan(got["r2"])
    assert got["mae"] == 0


def test_predictions_n_1_match_labels_n():
    metric = MeanAbsoluteError()
    metric.update(np.array([1.0, 2.0]), np.array([[1.5], [2.0]]))  # not broadcast to [2, 2]
    assert metric.result() == 0.25


def test_no_examples_give_nan():
    assert all(math.isnan(value) for value in results(metrics_for("regression")).values())


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([1.0, 2.0], [[1.0, 2.0]] * 2, r"labels have shape \[2\], but predictions \[2, 2\]"),
        ([1.0, np.nan], [1.0, 2.0], "labels have NaN"),
        ([1.0, -np.inf], [1.0, 2.0], "labels contain an infinite"),
        (np.zeros([2, 2, 2]), np.zeros([2, 2, 2]), r"expected \[n\] or \[n, k\]"),
    ],
)
def test_invalid_arrays_are_refused(labels, predictions, message):
    with pytest.raises(UserError, match=message):
        RSquared().update(np.array(labels), np.array(predictions))
