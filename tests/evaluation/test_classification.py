"""Metrics of classifiers against scikit-learn on the same predictions."""

import itertools
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings, strategies as st

from tfbig.errors import UserError
from tfbig.metrics import classification
from tfbig.metrics.calibration import CalibrationError
from tfbig.metrics.class_reader import ClassReader
from tfbig.metrics.classification import (
    F1,
    Accuracy,
    ConfusionMatrix,
    PrAuc,
    RocAuc,
    TopK,
)
from tfbig.metrics.metric import results, update_all
from tfbig.metrics.tasks import metrics_for

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
CLOSE = dict(rel=1e-6, abs=1e-6, nan_ok=True)


def examples(seed, size, classes, levels, weighted):
    """Labels, probabilities with ties (only a few levels) and weights."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, size)
    scores = random.integers(1, levels + 1, [size, classes]).astype(np.float64)
    weights = random.integers(1, 5, size) / 2 if weighted else None
    return labels, scores / scores.sum(axis=1, keepdims=True), weights


def measured(metrics, labels, predictions, weights, cuts=(0.3, 0.31, 0.9)):
    """The results after batches of different sizes."""
    ends = [0, *(int(cut * len(labels)) for cut in cuts), len(labels)]
    for start, end in itertools.pairwise(ends):
        part = slice(start, end)
        update_all(
            metrics, labels[part], predictions[part], None if weights is None else weights[part]
        )
    return results(metrics)


CASES = given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 60),
    classes=st.integers(3, 6),
    levels=st.integers(1, 6),
    weighted=st.booleans(),
)


@pytest.mark.slow
@CASES
@settings(max_examples=120, deadline=None)
def test_many_classes_equal_scikit_learn(seed, size, classes, levels, weighted):
    labels, chances, weights = examples(seed, size, classes, levels, weighted)
    names = ["accuracy", "log_loss", "confusion_matrix", "top_1_accuracy", "top_2_accuracy"]
    names += [f"{n}_{a}" for n in SCORES for a in ("macro", "micro", "weighted", "per_class")]
    got = measured(metrics_for("classes", names), labels, chances, weights)
    predicted, every = chances.argmax(axis=1), np.arange(classes)
    w = {"sample_weight": weights}
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted, **w), **CLOSE)
    assert got["log_loss"] == pytest.approx(
        sk.log_loss(labels, chances, labels=every, **w), **CLOSE
    )
    for k in (1, 2):
        expected = sk.top_k_accuracy_score(labels, chances, k=k, labels=every, **w)
        assert got[f"top_{k}_accuracy"] == pytest.approx(expected, **CLOSE)
    np.testing.assert_allclose(
        got["confusion_matrix"], sk.confusion_matrix(labels, predicted, labels=every, **w)
    )
    for name, score in SCORES.items():
        for average in ("macro", "micro", "weighted"):
            expected = score(labels, predicted, average=average, zero_division=0, **w)
            assert got[f"{name}_{average}"] == pytest.approx(expected, **CLOSE)
        seen = np.unique([labels, predicted])
        each = score(labels, predicted, average=None, zero_division=0, **w)
        assert got[f"{name}_per_class"] == pytest.approx(
            {str(c): value for c, value in zip(seen, each, strict=True)}, **CLOSE
        )


SCORES = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


@CASES
@settings(max_examples=120, deadline=None)
def test_areas_of_many_classes_equal_scikit_learn(seed, size, classes, levels, weighted):
    labels, chances, weights = examples(seed, size, classes, levels, weighted)
    got = measured(metrics_for("classes", ["roc_auc", "pr_auc"]), labels, chances, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.roc_auc_score(
            labels, chances, multi_class="ovr", labels=range(classes), sample_weight=weights
        )
        assert got["roc_auc"] == pytest.approx(expected, **CLOSE)
        if len(np.unique(labels)) < classes:  # scikit-learn raises an error there
            assert math.isnan(got["pr_auc"])
            assert math.isnan(got["roc_auc"])
        else:
            expected = sk.average_precision_score(labels, chances, sample_weight=weights)
            assert got["pr_auc"] == pytest.approx(expected, **CLOSE)


@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 60),
    levels=st.integers(1, 50),
    weighted=st.booleans(),
    shape=st.sampled_from(["n", "n1", "n2"]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=150, deadline=None)
def test_two_classes_equal_scikit_learn(seed, size, levels, weighted, shape, dtype):
    labels, chances, weights = examples(seed, size, 2, levels, weighted)
    chance = chances[:, 1].astype(dtype)
    given_as = {"n": chance, "n1": chance[:, None], "n2": np.stack([1 - chance, chance], 1)}
    got = measured(metrics_for("binary"), labels, given_as[shape], weights)
    predicted = chance > 0.5
    w = {"sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(labels, predicted, **w),
            "roc_auc": sk.roc_auc_score(labels, chance, **w),
            "pr_auc": sk.average_precision_score(labels, chance, **w),
            "log_loss": sk.log_loss(labels, chance, labels=[0, 1], **w),
        }
        for name, score in SCORES.items():
            expected[name] = score(labels, predicted, zero_division=0, **w)
        matrix = sk.confusion_matrix(labels, predicted, labels=[0, 1], **w)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, **CLOSE), name
    np.testing.assert_allclose(got["confusion_matrix"], matrix)


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("classes", 4)])
def test_logits_and_one_hot_labels_give_the_results_of_probabilities(task, classes):
    random = np.random.default_rng(0)
    logits = 3 * random.normal(size=[200, classes])
    labels = random.integers(0, classes, 200)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = measured(metrics_for(task), labels, chances, None)
    got = measured(metrics_for(task), np.eye(classes)[labels], logits, None)
    for name, value in expected.items():
        if isinstance(value, dict):
            assert got[name] == pytest.approx(value, **CLOSE), name
        else:
            np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("classes", [2, 4])
def test_examples_of_weight_0_are_ignored(classes):
    task = "binary" if classes == 2 else "classes"
    labels, chances, weights = examples(3, 40, classes, 5, True)
    weights[labels == 1] = 0  # class 1 is gone, so the areas are undefined
    there = weights > 0
    got = measured(metrics_for(task), labels, chances, weights)
    expected = measured(metrics_for(task), labels[there], chances[there], weights[there])
    for name, value in expected.items():
        if isinstance(value, dict):
            assert got[name] == pytest.approx(value, **CLOSE), name
        else:
            np.testing.assert_allclose(got[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(("task", "shape"), [("binary", 1), ("binary", 2), ("classes", 3)])
def test_the_caller_may_reuse_its_arrays(task, shape):
    labels, chances, weights = examples(5, 60, max(shape, 2), 9, True)
    chances = chances[:, 1:] if shape == 1 else chances
    expected = measured(metrics_for(task, ["roc_auc"]), labels, chances, weights, cuts=(0.5,))
    buffers = np.empty(30, int), np.empty([30, shape]), np.empty(30)
    metrics = metrics_for(task, ["roc_auc"])
    for part in (slice(0, 30), slice(30, 60)):
        for buffer, array in zip(buffers, (labels, chances, weights), strict=True):
            buffer[...] = array[part]
        update_all(metrics, *buffers)
    assert results(metrics) == expected


def test_areas_are_the_same_without_the_cached_order(monkeypatch):
    labels, chances, weights = examples(6, 60, 4, 9, True)
    names = ["roc_auc_per_class", "pr_auc_per_class"]
    expected = measured(metrics_for("classes", names), labels, chances, weights)
    monkeypatch.setattr(classification, "_MOST_SORTED", 10)
    assert measured(metrics_for("classes", names), labels, chances, weights) == expected


def test_the_log_loss_of_logits_is_exact_where_probabilities_are_clipped():
    metric = metrics_for("binary", ["log_loss"])[0]
    metric.update([0, 1], [1000.0, 1000.0])
    assert metric.result() == pytest.approx(500)


def test_saturated_logits_keep_their_rank():
    metric = metrics_for("binary", ["roc_auc"])[0]
    metric.update([0, 1], [50.0, 60.0])  # sigmoid is 1.0 for both
    assert metric.result() == 1


def test_no_examples_give_nan():
    assert math.isnan(Accuracy().result())
    assert math.isnan(RocAuc().result())
    assert math.isnan(F1().result())
    assert math.isnan(CalibrationError().result())
    assert F1("per_class").result() == {}


def test_calibration_is_the_gap_in_each_bin_weighted_by_its_examples():
    metric = CalibrationError(bins=2)
    # (0, 0.5]: none; (0.5, 1]: confidence 0.6, 0.8, 0.9 and two of three right
    chances = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    metric.update([0, 1, 1], chances)
    assert metric.result() == pytest.approx(abs(2 / 3 - 2.3 / 3))
    bins = metric.bins()
    assert math.isnan(bins.accuracy[0])
    assert bins.accuracy[1] == pytest.approx(2 / 3)
    assert bins.confidence[1] == pytest.approx(2.3 / 3)
    assert list(bins.weight) == [0, 3]


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    metric = CalibrationError(bins=2, reader=ClassReader(binary=True))
    metric.update([0, 1], [0.5, 1.0])
    assert list(metric.bins().weight) == [1, 1]


@given(seed=st.integers(0, 1000), bins=st.integers(1, 20), binary=st.booleans())
@settings(max_examples=50, deadline=None)
def test_calibration_equals_its_definition(seed, bins, binary):
    labels, chances, weights = examples(seed, 50, 2 if binary else 4, 9, True)
    metric = CalibrationError(bins=bins, reader=ClassReader(binary=binary))
    metric.update(labels, chances[:, 1] if binary else chances, weights)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    if binary:  # 1 - p may round to the other side of an edge
        confidence = np.maximum(chances[:, 1], 1 - chances[:, 1])
    edges, expected = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = np.average(right[inside], weights=weights[inside]) - np.average(
                confidence[inside], weights=weights[inside]
            )
            expected += abs(gap) * weights[inside].sum() / weights.sum()
    assert metric.result() == pytest.approx(expected, abs=1e-9)


def test_areas_refuse_too_many_examples(monkeypatch):
    monkeypatch.setattr(classification, "MOST_EXAMPLES", 5)
    metric = PrAuc()
    metric.update([0] * 5, np.full([5, 2], 0.5))
    with pytest.raises(UserError, match="at most 5 of them.*there are 6 examples"):
        metric.update([0], [[0.5, 0.5]])


def test_invalid_settings_are_refused():
    with pytest.raises(UserError, match="at least 1; got 0"):
        TopK(0)
    with pytest.raises(UserError, match="average='mean'"):
        F1("mean")
    with pytest.raises(UserError, match="bins=0"):
        CalibrationError(bins=0)
    with pytest.raises(UserError, match="4097 classes is too large"):
        ConfusionMatrix().update([0], np.eye(4097)[:1])
    with pytest.raises(UserError, match='average="binary" needs two classes; .* have 3'):
        F1("binary", ClassReader()).update([0], [[0.5, 0.25, 0.25]])
