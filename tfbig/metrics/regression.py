"""Metrics of regression; each equals scikit-learn's figure on the same predictions."""

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.metric import Batch, Metric, Reading, as_floats, read_weights


@dataclasses.dataclass
class NumberBatch(Batch):
    """Examples of a regression.

    Attributes:
        labels, predictions: float64 [n, outputs].
    """

    labels: np.ndarray
    predictions: np.ndarray


class NumberReading(Reading):
    """Reads labels and predictions of the same shape [n] or [n, k]; [n] and [n, 1] are the same."""

    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> NumberBatch:
        """Reads a batch; `weights` are per example."""
        true, guess = (_columns(labels, "labels"), _columns(predictions, "predictions"))
        if true.shape != guess.shape:
            raise UserError(
                f"labels have shape {list(np.shape(labels))}, but predictions "
                f"{list(np.shape(predictions))}; a regression needs one prediction per label."
            )
        return NumberBatch(read_weights(weights, true.shape[:1]), true, guess)


class _OverOutputs(Metric):
    """A metric from sums over examples of each output, and the mean over outputs."""

    NAME: ClassVar[str]

    def __init__(self, name: str | None = None, reading: NumberReading | None = None):
        super().__init__(name or self.NAME, reading or NumberReading())

    def reset(self) -> None:
        self._sums, self._weight = 0.0, 0.0

    @abc.abstractmethod
    def _errors(self, batch: NumberBatch) -> np.ndarray:
        """float64 [n, outputs], whose weighted sum is kept."""

    def add(self, batch: NumberBatch) -> None:
        self._sums = self._sums + batch.weights @ self._errors(batch)
        self._weight += float(batch.weights.sum())

    def result(self) -> float:
        return float(np.mean(self._sums / self._weight)) if self._weight else float("nan")


class MeanAbsoluteError(_OverOutputs):
    """The mean of |label - prediction|, in the label's unit.

    Example:

        metric = MeanAbsoluteError()
        metric.update(np.array([1.0, 2.0]), np.array([[1.5], [2.0]]))
        metric.result()  # 0.25

    Args:
        name: the key in `metrics.json`; default `mae`.
        reading: a NumberReading.
    """

    NAME = "mae"

    def _errors(self, batch: NumberBatch) -> np.ndarray:
        return np.abs(batch.labels - batch.predictions)


class RootMeanSquaredError(_OverOutputs):
    """The root of the mean of (label - prediction)², in the label's unit.

    For several outputs the mean of their roots, as scikit-learn's root_mean_squared_error.

    Args:
        name: default `rmse`.
        reading: a NumberReading.
    """

    NAME = "rmse"

    def _errors(self, batch: NumberBatch) -> np.ndarray:
        return (batch.labels - batch.predictions) ** 2

    def result(self) -> float:
        return float(np.mean(np.sqrt(self._sums / self._weight))) if self._weight else float("nan")


class RSquared(_OverOutputs):
    """R²: 1 is perfect, 0 is no better than the mean of the labels.

    As scikit-learn's r2_score: the mean over outputs; an output whose labels are all equal gives
    1 if predicted without error, else 0; NaN for fewer than two examples.

    Args:
        name: default `r2`.
        reading: a NumberReading.
    """

    NAME = "r2"

    def reset(self) -> None:
        super().reset()
        self._examples, self._first = 0, None
        self._mean = self._spread = 0.0  # of label - first label, and Σ weight (… - mean)²

    def _errors(self, batch: NumberBatch) -> np.ndarray:
        return (batch.labels - batch.predictions) ** 2

    def add(self, batch: NumberBatch) -> None:
        there = batch.weights > 0
        weight = float(batch.weights.sum())
        if not weight:
            return
        self._examples += int(there.sum())
        if self._first is None:
            self._first = batch.labels[there][0]
        # From the first label, so that equal labels have a spread of exactly 0; merged by batches
        # as Chan, Golub, LeVeque 1979, so that a large mean does not swallow the spread.
        labels = batch.labels - self._first
        mean = batch.weights @ labels / weight
        shift = mean - self._mean
        self._spread = (
            self._spread
            + batch.weights @ (labels - mean) ** 2
            + shift**2 * (self._weight * weight / (self._weight + weight))
        )
        self._mean = self._mean + shift * (weight / (self._weight + weight))
        super().add(batch)

    def result(self) -> float:
        if self._examples < 2:
            return float("nan")
        flat = np.where(self._sums == 0, 1.0, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = 1 - self._sums / self._spread
        return float(np.mean(np.where(self._spread > 0, explained, flat)))


def _columns(values: Any, name: str) -> np.ndarray:
    array = as_floats(values, name).astype(np.float64)
    if array.ndim not in (1, 2):
        raise UserError(
            f"{name} of a regression have shape {list(array.shape)}; give [n] or [n, k]."
        )
    if np.isinf(array).any():
        raise UserError(f"{name} have an infinite number; leave such examples out.")
    return array.reshape(len(array), -1) if array.size else array.reshape(0, 1)
