"""The metrics of each task, and the task of a batch."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.calibration import CalibrationError
from tfbig.metrics.class_reader import ClassReader
from tfbig.metrics.classification import (
    F1,
    Accuracy,
    ConfusionMatrix,
    LogLoss,
    PrAuc,
    Precision,
    Recall,
    RocAuc,
    TopK,
)
from tfbig.metrics.language import BitsPerByte, Perplexity, TokenReader
from tfbig.metrics.metric import BatchReader, Metric
from tfbig.metrics.regression import (
    MeanAbsoluteError,
    NumberReader,
    RootMeanSquaredError,
    RSquared,
)

TASKS = ("binary", "classes", "regression", "language")

_CLASSES: dict[str, Callable[[BatchReader], Metric]] = {
    "accuracy": Accuracy,
    "log_loss": LogLoss,
    "roc_auc": lambda reader: RocAuc(reader=reader),
    "pr_auc": lambda reader: PrAuc(reader=reader),
    "expected_calibration_error": lambda reader: CalibrationError(reader=reader),
    "confusion_matrix": ConfusionMatrix,
} | {
    f"{kind.__name__.lower()}_{average}": lambda reader, kind=kind, average=average: kind(
        average, reader
    )
    for kind in (Precision, Recall, F1)
    for average in ("macro", "micro", "weighted", "per_class")
}
_BINARY = _CLASSES | {
    kind.__name__.lower(): lambda reader, kind=kind: kind("binary", reader)
    for kind in (Precision, Recall, F1)
}
_MANY = _CLASSES | {
    "roc_auc_per_class": lambda reader: RocAuc("per_class", reader),
    "pr_auc_per_class": lambda reader: PrAuc("per_class", reader),
}
_REGRESSION: dict[str, Callable[[BatchReader], Metric]] = {
    "mae": lambda reader: MeanAbsoluteError(reader=reader),
    "rmse": lambda reader: RootMeanSquaredError(reader=reader),
    "r2": lambda reader: RSquared(reader=reader),
}
_LANGUAGE: dict[str, Callable[[BatchReader], Metric]] = {
    "perplexity": Perplexity,
    "bits_per_byte": BitsPerByte,
}
_KNOWN = {
    "binary": _BINARY,
    "classes": _MANY,
    "regression": _REGRESSION,
    "language": _LANGUAGE,
}
_TOP_K = re.compile(r"top_([1-9]\d*)_accuracy")


def metrics_for(
    task: str,
    names: Sequence[str | Metric] | None = None,
    *,
    classes: int | None = None,
    from_logits: bool | str = "auto",
) -> list[Metric]:
    """Returns new metrics for a task; add batches to them with `update_all`.

    Example:

        metrics = metrics_for("classes", ["accuracy", "f1_macro", "top_3_accuracy"])

    Args:
        task: "binary" (two classes, predictions [n], [n, 1] or [n, 2]), "classes" (predictions
            [n, c]), "regression" (predictions of the shape of the labels) or "language"
            (predictions [n, t, vocabulary]).
        names: the names of the metrics; your own Metric objects are returned as they are. None
            for the task's default list, without metrics that are meaningless for this number of
            classes. The names for "classes" are accuracy, log_loss, roc_auc, pr_auc, the last two
            also with _per_class, expected_calibration_error, confusion_matrix, top_<k>_accuracy,
            and precision, recall and f1, each with _macro, _micro, _weighted or _per_class. For
            "binary" they are the same without top-k, and also precision, recall and f1 of
            class 1. For "regression" they are mae, rmse and r2, and for "language" perplexity
            and bits_per_byte.
        classes: the number of classes or of tokens, if known.
        from_logits: True, False, or "auto" to decide by the first batch; see
            `tfbig.metrics.class_reader.LogitDetector`.

    Raises:
        UserError: the task or a name is unknown.
    """
    if task not in TASKS:
        raise UserError(f"task={task!r}; write one of {', '.join(map(repr, TASKS))}.")
    if isinstance(names, str):
        raise UserError(f"metrics={names!r} is a string; write a list: [{names!r}].")
    reader: BatchReader
    if task == "regression":
        reader = NumberReader()
    elif task == "language":
        reader = TokenReader(from_logits)
    else:
        reader = ClassReader(from_logits, binary=task == "binary")
    chosen = _default_names(task, classes) if names is None else names
    return [_metric(task, name, reader) for name in chosen]


def task_of(labels: Any, predictions: Any) -> str:
    """Infers the task from one batch. The rules are heuristic; pass task= if they are wrong.

    - whole labels of shape [n, t] and predictions [n, t, c]: "language"
    - whole labels [n] or [n, 1], or one-hot labels, and predictions [n, c]: "classes";
      for c = 2: "binary"
    - labels that are all 0 or 1, and predictions [n] or [n, 1]: "binary"
    - otherwise, labels and predictions of the same shape: "regression"

    Example:

        task_of(np.array([1, 0]), np.array([[0.7], [0.2]]))  # "binary"

    Args:
        labels: the labels of the batch.
        predictions: the predictions of the batch.

    Returns:
        One of `TASKS`.

    Raises:
        UserError: the shapes match none of these rules.
    """
    true, shape = np.asarray(labels), np.shape(predictions)
    whole = true.dtype.kind in "biuf" and bool(np.all(true == np.floor(true)))
    if len(shape) >= 3 and whole and true.shape in (shape[:-1], (*shape[:-1], 1)):
        return "language"
    several = len(shape) == 2 and shape[1] > 1
    if several and whole and true.shape in (shape[:1], (shape[0], 1)):
        return "binary" if shape[1] == 2 else "classes"
    if several and true.shape == shape and whole and _one_hot(true):
        return "binary" if shape[1] == 2 else "classes"
    same = true.reshape(-1).shape == (int(np.prod(shape)),) and len(true) == shape[0]
    if same and not several and whole and bool(np.all((true == 0) | (true == 1))):
        return "binary"
    if same and len(shape) <= 2 and true.dtype.kind in "biuf":
        return "regression"
    raise UserError(
        f"no task has labels of shape {list(true.shape)} ({true.dtype}) with predictions of shape "
        f"{list(shape)}; write the task: one of {', '.join(map(repr, TASKS))}."
    )


def _default_names(task: str, classes: int | None) -> list[str]:
    if task == "binary":
        return [
            "accuracy",
            "precision",
            "recall",
            "f1",
            "roc_auc",
            "pr_auc",
            "log_loss",
            "expected_calibration_error",
            "confusion_matrix",
        ]
    if task == "regression":
        return list(_REGRESSION)
    if task == "language":
        # Only with 256 tokens is a token a byte.
        return ["perplexity"] + (["bits_per_byte"] if classes in (None, 256) else [])
    k = 5 if classes is None or classes > 5 else 2
    return [
        "accuracy",
        f"top_{k}_accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "f1_weighted",
        "roc_auc",
        "pr_auc",
        "log_loss",
        "expected_calibration_error",
        "precision_per_class",
        "recall_per_class",
        "f1_per_class",
        "confusion_matrix",
    ]


def _metric(task: str, name: str | Metric, reader: BatchReader) -> Metric:
    if isinstance(name, Metric):
        return name
    top = _TOP_K.fullmatch(name) if isinstance(name, str) and task == "classes" else None
    if top:
        return TopK(int(top.group(1)), reader)
    known = _KNOWN[task]
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no metric {name!r} for {task!r}; {hint}There are: {', '.join(known)}.")
    return known[name](reader)


def _one_hot(rows: np.ndarray) -> bool:
    return bool(np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1))
