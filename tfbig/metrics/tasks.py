"""Which metrics a task has."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.classification import (
    F1,
    Accuracy,
    CalibrationError,
    ConfusionMatrix,
    LogLoss,
    PrAuc,
    Precision,
    Recall,
    RocAuc,
    TopK,
)
from tfbig.metrics.language import BitsPerByte, Perplexity, TokenReading
from tfbig.metrics.metric import Metric, Reading
from tfbig.metrics.reading import ClassReading
from tfbig.metrics.regression import (
    MeanAbsoluteError,
    NumberReading,
    RootMeanSquaredError,
    RSquared,
)

TASKS = ("binary", "classes", "regression", "language")

_CLASSES: dict[str, Callable[[Reading], Metric]] = {
    "accuracy": Accuracy,
    "log_loss": LogLoss,
    "roc_auc": lambda reading: RocAuc(reading=reading),
    "pr_auc": lambda reading: PrAuc(reading=reading),
    "expected_calibration_error": lambda reading: CalibrationError(reading=reading),
    "confusion_matrix": ConfusionMatrix,
} | {
    f"{kind.__name__.lower()}_{average}": lambda reading, kind=kind, average=average: kind(
        average, reading
    )
    for kind in (Precision, Recall, F1)
    for average in ("macro", "micro", "weighted", "per_class")
}
_BINARY = _CLASSES | {
    kind.__name__.lower(): lambda reading, kind=kind: kind("binary", reading)
    for kind in (Precision, Recall, F1)
}
_MANY = _CLASSES | {
    "roc_auc_per_class": lambda reading: RocAuc("per_class", reading),
    "pr_auc_per_class": lambda reading: PrAuc("per_class", reading),
}
_REGRESSION: dict[str, Callable[[Reading], Metric]] = {
    "mae": lambda reading: MeanAbsoluteError(reading=reading),
    "rmse": lambda reading: RootMeanSquaredError(reading=reading),
    "r2": lambda reading: RSquared(reading=reading),
}
_LANGUAGE: dict[str, Callable[[Reading], Metric]] = {
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
    """The metrics of a task, new and empty; feed them with `update_all`.

    Example:

        metrics = metrics_for("classes", ["accuracy", "f1_macro", "top_3_accuracy"])

    Args:
        task: "binary" (two classes, predictions [n], [n, 1] or [n, 2]), "classes" (predictions
            [n, c]), "regression" (as the labels) or "language" (predictions [n, t, vocabulary]).
        names: which; a Metric of your own is passed on. None: the task's usual list, without what
            says nothing for this number of classes. Names of "classes": accuracy, log_loss,
            roc_auc, pr_auc (and with _per_class), expected_calibration_error, confusion_matrix,
            top_<k>_accuracy, and precision, recall, f1 each with _macro, _micro, _weighted,
            _per_class; of "binary": the same without top-k and with precision, recall and f1 of
            class 1; of "regression": mae, rmse, r2; of "language": perplexity, bits_per_byte.
        classes: the number of classes or of tokens, if known.
        from_logits: True, False, or "auto": decided over the first batch and logged; see
            `tfbig.metrics.reading.Scale`.

    Raises:
        UserError: for an unknown task or name.
    """
    if task not in TASKS:
        raise UserError(f"task={task!r}; write one of {', '.join(map(repr, TASKS))}.")
    if isinstance(names, str):
        raise UserError(f"metrics={names!r} is a string; write a list: [{names!r}].")
    reading: Reading
    if task == "regression":
        reading = NumberReading()
    elif task == "language":
        reading = TokenReading(from_logits)
    else:
        reading = ClassReading(from_logits, binary=task == "binary")
    chosen = _usual(task, classes) if names is None else names
    return [_metric(task, name, reading) for name in chosen]


def task_of(labels: Any, predictions: Any) -> str:
    """Guesses the task from one batch; where it can be mistaken, say the task.

    - whole labels of shape [n, t] and predictions [n, t, c]: "language"
    - whole labels [n] or [n, 1], or one-hot labels, and predictions [n, c]: "classes";
      for c = 2: "binary"
    - labels that are all 0 or 1, and predictions [n] or [n, 1]: "binary"
    - else, labels and predictions of the same shape: "regression"

    Example:

        task_of(np.array([1, 0]), np.array([[0.7], [0.2]]))  # "binary"

    Args:
        labels: array.
        predictions: array.

    Returns:
        One of `TASKS`.

    Raises:
        UserError: if the shapes go together in none of these ways.
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


def _usual(task: str, classes: int | None) -> list[str]:
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
        # A token of another vocabulary is not a byte.
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


def _metric(task: str, name: str | Metric, reading: Reading) -> Metric:
    if isinstance(name, Metric):
        return name
    top = _TOP_K.fullmatch(name) if isinstance(name, str) and task == "classes" else None
    if top:
        return TopK(int(top.group(1)), reading)
    known = _KNOWN[task]
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no metric {name!r} for {task!r}; {hint}There are: {', '.join(known)}.")
    return known[name](reading)


def _one_hot(rows: np.ndarray) -> bool:
    return bool(np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1))
