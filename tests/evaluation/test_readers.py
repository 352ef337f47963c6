"""The shapes and dtypes of labels and predictions, and the task inferred from them."""

import logging

import numpy as np
import pytest

from tfbig.errors import UserError
from tfbig.evaluation.metrics import BitsPerByte, metrics_for, task_of
from tfbig.metrics.class_reader import ClassReader
from tfbig.metrics.classification import Accuracy, LogLoss
from tfbig.metrics.metric import update_all

CHANCES = np.array([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]])


def test_the_first_batch_decides_between_probabilities_and_logits(caplog):
    caplog.set_level(logging.INFO, logger="tfbig")
    reader = ClassReader()
    np.testing.assert_array_equal(reader([0, 1], CHANCES).probabilities, CHANCES)
    assert "read as probabilities" in caplog.text
    with pytest.raises(UserError, match="as in the first batch.*a row has the sum 2"):
        reader([0, 1], CHANCES * 2)


@pytest.mark.parametrize(
    ("logits", "why"), [(CHANCES * 2, "sum 2"), (CHANCES - 1, "-0.9, below 0")]
)
def test_rows_that_cannot_be_probabilities_are_logits_and_logged_once(logits, why, caplog):
    caplog.set_level(logging.INFO, logger="tfbig")
    metrics = metrics_for("classes", ["accuracy", "log_loss"])
    update_all(metrics, [0, 1], logits)
    update_all(metrics, [0, 1], CHANCES)  # logits may look like probabilities
    assert caplog.text.count("read as logits") == 1
    assert why in caplog.text
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chances = np.exp(CHANCES) / np.exp(CHANCES).sum(axis=1, keepdims=True)
    labelled = [softmax[0, 0], softmax[1, 1], chances[0, 0], chances[1, 1]]
    assert metrics[1].result() == pytest.approx(-np.log(labelled).mean())


def test_the_caller_may_set_from_logits():
    assert ClassReader(True)([0], [[0.5, 0.5, 0.0]]).probabilities[0, 2] > 0.2
    with pytest.raises(UserError, match="from_logits=False.*below 0"):
        ClassReader(False)([0], [[-1.0, 2.0, 0.0]])
    with pytest.raises(UserError, match="from_logits='yes'"):
        ClassReader("yes")


def test_probabilities_of_half_precision_are_probabilities():
    import ml_dtypes

    random = np.random.default_rng(0).random([50, 300])
    chances = random / random.sum(axis=1, keepdims=True)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        reader = ClassReader()
        reader(np.zeros(50), chances.astype(dtype))
        assert reader.logit_detector.from_logits is False


def test_every_position_of_a_sequence_is_an_example():
    metric = Accuracy()
    predictions = np.eye(3)[[[0, 1], [2, 2]]]
    metric.update([[0, 1], [2, 1]], predictions, weights=[[1, 1], [0, 1]])
    assert metric.result() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "a label is 3, but the predictions have 3 classes"),
        ([0, -1], "a label is -1"),
        ([0, 1.5], "a label is 1.5"),
        ([0, 1, 2], r"shape \[3\] do not match predictions of 3 classes for \[2\] examples"),
        ([[1, 1, 0], [0, 1, 0]], "are not one-hot"),
        ([[0.5, 0.5, 0], [0, 1, 0]], "are not one-hot"),
        (["cat", "dog"], "must be class numbers 0..2"),
    ],
)
def test_invalid_labels_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        Accuracy().update(np.array(labels), CHANCES)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([[0.5, np.nan, 0.5]] * 2, "NaN or infinity, the first in example 0"),
        ([[0, 0, 0], [1, np.inf, 0]], "the first in example 1"),
        ([0.5, 0.5], r"shape \[2\]; pass a probability or a logit for each class"),
        ([["a", "b"]] * 2, "must be numbers"),
    ],
)
def test_invalid_predictions_are_refused(predictions, message):
    with pytest.raises(UserError, match=message):
        Accuracy().update([0, 1], predictions)


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1, -1], "a weight is -1"), ([1, np.nan], "a weight is nan"), ([1], r"shape \[1\]")],
)
def test_invalid_weights_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        LogLoss().update([0, 1], CHANCES, weights)


@pytest.mark.parametrize(
    ("labels", "predictions", "task"),
    [
        (np.array([0, 1]), np.zeros([2]), "binary"),
        (np.array([[0.0], [1.0]]), np.zeros([2, 1]), "binary"),
        (np.array([0, 1]), np.zeros([2, 2]), "binary"),
        (np.array([0, 2]), np.zeros([2, 3]), "classes"),
        (np.eye(3), np.zeros([3, 3]), "classes"),
        (np.array([0.5, 2]), np.zeros([2, 1]), "regression"),
        (np.array([3, 2]), np.zeros([2]), "regression"),
        (np.array([[0.5, 2], [1, 3]]), np.zeros([2, 2]), "regression"),
        (np.zeros([2, 5], int), np.zeros([2, 5, 7]), "language"),
    ],
)
def test_the_task_is_inferred_from_shapes_and_labels(labels, predictions, task):
    assert task_of(labels, predictions) == task
    for metric in metrics_for(task):
        metric.update(labels, predictions)


def test_arrays_without_a_task_are_refused():
    with pytest.raises(UserError, match=r"labels of shape \[2, 3\].*predictions of shape \[2, 4\]"):
        task_of(np.zeros([2, 3]), np.zeros([2, 4]))


def test_names_select_metrics_and_errors_name_unknown_ones():
    assert [m.name for m in metrics_for("classes", ["top_3_accuracy", "f1_macro"])] == [
        "top_3_accuracy",
        "f1_macro",
    ]
    assert "top_2_accuracy" in [m.name for m in metrics_for("classes", classes=4)]
    assert [m.name for m in metrics_for("language", classes=5000)] == ["perplexity"]
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        metrics_for("binary", ["acuracy"])
    with pytest.raises(UserError, match="task='multi'"):
        metrics_for("multi")
    with pytest.raises(UserError, match="write a list"):
        metrics_for("binary", "accuracy")


@pytest.mark.parametrize("task", ["binary", "classes", "regression", "language"])
def test_a_metrics_name_is_the_requested_name(task):
    from tfbig.metrics.tasks import _KNOWN

    for name in _KNOWN[task]:
        assert metrics_for(task, [name])[0].name == name


def test_saved_models_find_the_keras_metric_at_its_old_path():
    assert BitsPerByte().name == "bits_per_byte"
