"""ClassReader: converts labels and predictions of classifiers to a standard form."""

import dataclasses
import logging
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.metric import BatchReader, MetricBatch, as_floats, read_weights

log = logging.getLogger("tfbig")


@dataclasses.dataclass
class ClassBatch(MetricBatch):
    """Examples of a classifier.

    Attributes:
        labels: int64 [n], the class numbers.
        predicted: int64 [n], the class with the highest score, or the first of several. For two
            classes in one column, 1 if the probability is above 0.5.
        probabilities: float [n, c]; for two classes, [n] with the probability of class 1.
        scores: the values that rankings use, of the shape of probabilities. They are the logits
            for two classes, because large logits differ where probabilities round to 1; otherwise
            they are the probabilities.
        nats: float64 [n], -log(probability of the label).
    """

    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
    nats: np.ndarray


class LogitDetector:
    """Decides once whether predictions are logits or probabilities.

    Args:
        from_logits: True, False, or "auto" to decide by the first batch and log the decision.
            Predictions are probabilities if all rows are non-negative with the sum 1, or, for a
            single column, if all values are between 0 and 1. Otherwise they are logits. A later
            batch that contradicts the decision raises an error.
    """

    def __init__(self, from_logits: bool | str = "auto"):
        if from_logits not in (True, False, "auto"):
            raise UserError(f'from_logits={from_logits!r}; write True, False or "auto".')
        self.from_logits = None if from_logits == "auto" else bool(from_logits)
        self._auto = from_logits == "auto"

    def are_logits(self, values: np.ndarray, tolerance: float) -> bool:
        """Returns whether the values are logits.

        Args:
            values: float [n] or [n, c].
            tolerance: the largest accepted distance from 1 of the sum of a row of probabilities.

        Raises:
            UserError: earlier values were probabilities, and these cannot be.
        """
        if self.from_logits or not len(values):
            return bool(self.from_logits)
        wrong = _not_probabilities(values, tolerance)
        if self.from_logits is None:
            self.from_logits = wrong is not None
            log.info(
                "the predictions are read as %s",
                f"logits ({wrong})" if wrong else "probabilities (pass from_logits=True if not)",
            )
        elif wrong:
            why = "as in the first batch" if self._auto else "from_logits=False"
            raise UserError(
                f"the predictions are read as probabilities ({why}), but {wrong}; pass "
                "from_logits=True if the model returns logits."
            )
        return self.from_logits


class ClassReader(BatchReader):
    """Reads class numbers or one-hot labels, and probabilities or logits.

    Example:

        batch = ClassReader()(np.array([2, 0]), np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]))
        batch.predicted  # array([2, 0])

    Args:
        from_logits: as in `LogitDetector`.
        binary: True for two classes, with predictions of shape [n] or [n, 1] for class 1, or
            [n, 2]. False for predictions of shape [..., c].
    """

    def __init__(self, from_logits: bool | str = "auto", *, binary: bool = False):
        self.logit_detector, self._binary = LogitDetector(from_logits), binary

    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> ClassBatch:
        """Reads a batch.

        Args:
            labels: class numbers [n] or [n, 1], or one-hot labels [n, c]; also [n, t] for
                predictions [n, t, c].
            predictions: an array of the shape that `binary` requires.
            weights: None, or as in `read_weights`.
        """
        tolerance = sum_tolerance(predictions)
        values = as_floats(predictions, "predictions")
        if self._binary:
            return self._read_binary(labels, values, weights, tolerance)
        classes = check_columns(values)
        numbers, shape = class_numbers(labels, values.shape)
        values = values.reshape(-1, classes)
        if self.logit_detector.are_logits(values, tolerance):
            logs = log_softmax(values)
            probabilities = np.exp(logs)
            nats = -_at(logs, numbers)
        else:
            # Copy the values: a ranking keeps them, and the caller may reuse the array.
            probabilities, nats = values.copy(), _clipped_nats(_at(values, numbers))
        return ClassBatch(
            weights=read_weights(weights, shape),
            labels=numbers,
            predicted=values.argmax(axis=-1),
            probabilities=probabilities,
            scores=probabilities,
            nats=nats,
        )

    def _read_binary(
        self, labels: Any, values: np.ndarray, weights: Any, tolerance: float
    ) -> ClassBatch:
        if values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,), (2,)):
            raise UserError(
                f"predictions of two classes have shape {list(values.shape)}; expected [n] or "
                "[n, 1] for class 1, or [n, 2]."
            )
        two = values.shape[1:] == (2,)
        numbers, shape = class_numbers(labels, (len(values), 2))
        values = values if two else values.reshape(-1)
        if self.logit_detector.are_logits(values, tolerance):
            values = values.astype(np.float64)
            scores = values[:, 1] - values[:, 0] if two else values  # astype made a copy
            probabilities = np.exp(-np.logaddexp(0, -scores))
            predicted = scores > 0
            nats = np.logaddexp(0, np.where(numbers == 1, -scores, scores))
        else:
            predicted = values.argmax(axis=-1) if two else values > 0.5
            probabilities = scores = (values[:, 1] if two else values).copy()
            nats = _clipped_nats(np.where(numbers == 1, probabilities, 1 - probabilities))
        return ClassBatch(
            weights=read_weights(weights, shape),
            labels=numbers,
            predicted=predicted.astype(np.int64),
            probabilities=probabilities,
            scores=scores,
            nats=nats,
        )


def class_numbers(labels: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the class number of every example.

    Args:
        labels: class numbers of shape `shape[:-1]` or [*shape[:-1], 1], or one-hot labels of
            shape `shape`.
        shape: the shape of the predictions, [..., c].

    Returns:
        An int64 array of shape [product of shape[:-1]], and the tuple shape[:-1].

    Raises:
        UserError: the shape is another one, a number is outside 0..c-1, or a row is not one-hot.
    """
    array = np.asarray(labels)
    outer, classes = tuple(shape[:-1]), shape[-1]
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"labels must be class numbers 0..{classes - 1}; got an array of {array.dtype}."
        )
    if array.shape == tuple(shape) and array.shape != (*outer, 1):
        rows = array.reshape(-1, classes)
        if not np.all(((rows == 0) | (rows == 1)).all(axis=1) & (rows.sum(axis=1) == 1)):
            raise UserError(
                f"labels of shape {list(shape)} are not one-hot: a row must have a single 1. Pass "
                "class numbers; several labels per example are not supported."
            )
        return rows.argmax(axis=1), outer
    if array.shape not in (outer, (*outer, 1)):
        raise UserError(
            f"labels of shape {list(array.shape)} do not match predictions of {classes} classes "
            f"for {list(outer)} examples; pass class numbers of shape {list(outer)}, or one-hot "
            f"labels of shape {list(shape)}."
        )
    numbers = array.reshape(-1)
    wrong = ~((numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers)))
    if wrong.any():
        raise UserError(
            f"a label is {numbers[wrong][0]}, but the predictions have {classes} classes; labels "
            f"must be whole numbers from 0 to {classes - 1}."
        )
    return numbers.astype(np.int64), outer


def check_columns(values: np.ndarray) -> int:
    """Returns the number of classes c of predictions [..., c]; raises UserError if c < 2."""
    if values.ndim < 2 or values.shape[-1] < 2:
        raise UserError(
            f"predictions have shape {list(values.shape)}; pass a probability or a logit for each "
            "class, shape [n, c] with c of at least 2."
        )
    return values.shape[-1]


def sum_tolerance(predictions: Any) -> float:
    """Returns how far rounding may move the sum of probabilities of this dtype from 1."""
    dtype = np.asarray(predictions).dtype
    return 2e-2 if dtype.itemsize == 2 else 1e-3


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the log probabilities, float64 [n, c], of logits [n, c]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _not_probabilities(values: np.ndarray, tolerance: float) -> str | None:
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return f"one is {low:.4g}, below 0"
    if values.ndim == 1:
        return f"one is {high:.4g}, above 1" if high > 1 else None
    sums = values.sum(axis=-1, dtype=np.float64)
    furthest = float(sums[np.argmax(np.abs(sums - 1))])
    return f"a row has the sum {furthest:.4g}" if abs(furthest - 1) > tolerance else None


def _at(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, numbers[:, None], axis=1)[:, 0]


def _clipped_nats(chances: np.ndarray) -> np.ndarray:
    # As in scikit-learn: a probability of 0 stands for any value below the dtype's epsilon.
    rounding = np.finfo(chances.dtype).eps
    return -np.log(np.clip(chances, rounding, 1 - rounding).astype(np.float64))
