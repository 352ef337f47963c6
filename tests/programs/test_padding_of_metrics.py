"""Padding with weights of 0 changes no Keras metric. If it would, a batch is not padded."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import metrics

from tfbig import _private_api
from tfbig.programs.keras.layer_traits import exact_with_padding

ROWS, PADDING, CLASSES = 5, 3, 4
_RANDOM = np.random.RandomState(0)
OUTPUTS = {
    "one": _RANDOM.rand(ROWS, 1).astype("float32"),
    "classes": _RANDOM.rand(ROWS, CLASSES).astype("float32"),
    "sequence": _RANDOM.rand(ROWS, 3, CLASSES).astype("float32"),
}
LABELS = {name: np.round(_RANDOM.rand(*o.shape)).astype("float32") for name, o in OUTPUTS.items()}
ONE_HOT = np.eye(CLASSES, dtype="float32")[_RANDOM.randint(0, CLASSES, ROWS)]
CLASS_NUMBERS = _RANDOM.randint(0, CLASSES, [ROWS, 1]).astype("int32")
WEIGHTS = _RANDOM.rand(ROWS).astype("float32")

COUNTING = {
    "auc": lambda: metrics.AUC(),
    "precision": lambda: metrics.Precision(),
    "recall": lambda: metrics.Recall(),
    "true_positives": lambda: metrics.TruePositives(),
    "false_negatives": lambda: metrics.FalseNegatives(),
    "sensitivity_at_specificity": lambda: metrics.SensitivityAtSpecificity(0.5),
    "precision_at_recall": lambda: metrics.PrecisionAtRecall(0.5),
}
OF_TABLES = {
    "auc_of_labels": lambda: metrics.AUC(multi_label=True, num_labels=CLASSES),
    "f1": lambda: metrics.F1Score(),
    "r2": lambda: metrics.R2Score(),
}
MEANS = {
    "binary_accuracy": lambda: metrics.BinaryAccuracy(),
    "binary_crossentropy": lambda: metrics.BinaryCrossentropy(),
    "mean_squared_error": lambda: metrics.MeanSquaredError(),
    "root_mean_squared_error": lambda: metrics.RootMeanSquaredError(),
    "kl_divergence": lambda: metrics.KLDivergence(),
    "cosine": lambda: metrics.CosineSimilarity(),
}
OF_CLASSES = {
    "categorical_accuracy": lambda: metrics.CategoricalAccuracy(),
    "top_k": lambda: metrics.TopKCategoricalAccuracy(k=2),
    "crossentropy": lambda: metrics.CategoricalCrossentropy(from_logits=True),
}
OF_CLASS_NUMBERS = {
    "sparse_accuracy": lambda: metrics.SparseCategoricalAccuracy(),
    "sparse_top_k": lambda: metrics.SparseTopKCategoricalAccuracy(k=2),
}
INTERSECTIONS = {
    "iou": lambda: metrics.OneHotIoU(CLASSES, [0]),
    "mean_iou": lambda: metrics.OneHotMeanIoU(CLASSES),
    "binary_iou": lambda: metrics.BinaryIoU(),
}

PADDED = [
    *[(n, m, "one", LABELS["one"]) for n, m in (COUNTING | MEANS | OF_TABLES).items()
      if n != "auc_of_labels"],
    *[(n, m, "classes", LABELS["classes"]) for n, m in (COUNTING | MEANS | OF_TABLES).items()],
    *[(n, m, "sequence", LABELS["sequence"]) for n, m in MEANS.items()],
    *[(n, m, "classes", ONE_HOT) for n, m in OF_CLASSES.items()],
    *[(n, m, "classes", CLASS_NUMBERS) for n, m in OF_CLASS_NUMBERS.items()],
]  # fmt: skip
NOT_PADDED = [
    *[(n, m, "sequence", LABELS["sequence"]) for n, m in COUNTING.items()],
    *[(n, m, "classes", ONE_HOT) for n, m in INTERSECTIONS.items()],
]


def named(cases: list) -> list:
    return [pytest.param(*rest, id=f"{name}-{rest[1]}") for name, *rest in cases]


def compiled(make, output: str, labels: np.ndarray, *, weighted: bool) -> keras.Model:
    """A model that returns its input, compiled with one metric and built."""
    shape = OUTPUTS[output].shape[1:]
    model = keras.Sequential([keras.Input(shape), keras.layers.Identity()])
    kind = "weighted_metrics" if weighted else "metrics"
    model.compile("sgd", "mse", **{kind: [make()]})
    # The loss is no part of this; it is built on labels like its outputs.
    y = keras.KerasTensor((None, *labels.shape[1:]), str(labels.dtype))
    weight = keras.KerasTensor((None,)) if weighted else None
    _private_api.build_compiled(model, keras.KerasTensor((None, *shape)), y, weight)
    return model


def result(model: keras.Model) -> np.ndarray:
    (metric,) = _private_api.compiled_metrics(model).metrics
    return keras.ops.convert_to_numpy(metric.result())


def pads(model: keras.Model) -> bool:
    tracker = model._loss_tracker
    return exact_with_padding(model, [m for m in model.metrics if m is not tracker])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("make", "output", "labels"), named(PADDED))
def test_padding_does_not_change_a_metric(make, output, labels, weighted):
    plain = compiled(make, output, labels, weighted=weighted)
    padded = compiled(make, output, labels, weighted=weighted)
    assert pads(padded)
    weights = WEIGHTS if weighted else None

    _private_api.compiled_metrics(plain).update_state(labels, OUTPUTS[output], weights)
    more = [None if a is None else tf.constant(np.concatenate([a, np.repeat(a[:1], PADDING, 0)]))
            for a in (labels, OUTPUTS[output], weights)]  # fmt: skip
    row_weight = tf.constant([1.0] * ROWS + [0.0] * PADDING)
    _private_api.update_padded_metrics(padded, *more, row_weight)

    np.testing.assert_allclose(result(padded), result(plain), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("make", "output", "labels"), named(NOT_PADDED))
def test_a_metric_that_takes_no_weight_for_an_example_is_given_batches_of_true_size(
    make, output, labels
):
    assert not pads(compiled(make, output, labels, weighted=False))


@pytest.mark.parametrize("loss", ["dice", "tversky", "circle"])
def test_a_loss_over_the_batch_is_given_batches_of_true_size(loss):
    model = keras.Sequential([keras.Input((CLASSES,)), keras.layers.Identity()])
    model.compile("sgd", loss)
    shape = (None,) if loss == "circle" else (None, CLASSES)
    _private_api.build_compiled(
        model, keras.KerasTensor((None, CLASSES)), keras.KerasTensor(shape), None
    )

    assert not pads(model)
