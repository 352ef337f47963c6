"""Metrics of regression; each equals scikit-learn's value on the same predictions."""

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.metrics.metric import BatchReader, Metric, MetricBatch, as_floats, read_weights


@dataclasses.dataclass
class NumberBatch(MetricBatch):
    """Examples of a regression.

    Attributes:
        labels, predictions: float64 [n, outputs].
    """

    labels: np.ndarray
    predictions: np.ndarray


class NumberReader(BatchReader):
    """Reads labels and predictions of shape [n] or [n, k]; [n] and [n, 1] are equivalent."""

    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> NumberBatch:
        """Reads a batch; `weights` are per example."""
        true, predicted = _columns(labels, "labels"), _columns(predictions, "predictions")
        if true.shape != predicted.shape:
            raise UserError(
                f"labels have shape {list(np.shape(labels))}, but predictions "
                f"{list(np.shape(predictions))}; regression needs one prediction per label."
            )
        return NumberBatch(read_weights(weights, true.shape[:1]), true, predicted)


class _OverOutputs(Metric):
    """Base class of metrics with a sum over examples per output, and a mean over outputs."""

    NAME: ClassVar[str]

    def __init__(self, name: str | None = None, reader: NumberReader | None = None):
        super().__init__(name or self.NAME, reader or NumberReader())

    def reset(self) -> None:
        self._sums, self._weight = 0.0, 0.0

    @abc.abstractmethod
    def _errors(self, batch: NumberBatch) -> np.ndarray:
        """Returns the errors, float64 [n, outputs], whose weighted sum is the state."""

    def add(self, batch: NumberBatch) -> None:
        self._sums = self._sums + batch.weights @ self._errors(batch)
        self._weight += float(batch.weights.sum())

    def result(self) -> float:
        return float(np.mean(self._sums / self._weight)) if self._weight else float("nan")


class MeanAbsoluteError(_OverOutputs):
    """The mean of |label - prediction|, in the unit of the labels.

    Example:

        metric = MeanAbsoluteError()
        metric.update(np.array([1.0, 2.0]), np.array([[1.5], [2.0]]))
        metric.result()  # 0.25

    Args:
        name: the key in `metrics.json`; the default is `mae`.
        reader: a NumberReader.
    """

    NAME = "mae"

    def _errors(self, batch: NumberBatch) -> np.ndarray:
        return np.abs(batch.labels - batch.predictions)


class RootMeanSquaredError(_OverOutputs):
    """The square root of the mean of (label - prediction)², in the unit of the labels.

    For several outputs, it is the mean of their roots, as in scikit-learn's
    root_mean_squared_error.

    Args:
        name: the key in `metrics.json`; the default is `rmse`.
        reader: a NumberReader.
    """

    NAME = "rmse"

    def _errors(self, batch: NumberBatch) -> np.ndarray:
        return (batch.labels - batch.predictions) ** 2

    @override
    def result(self) -> float:
        return float(np.mean(np.sqrt(self._sums / self._weight))) if self._weight else float("nan")


class RSquared(_OverOutputs):
    """R²: 1 is perfect, 0 is no better than the mean of the labels.

    As in scikit-learn's r2_score, it is the mean over outputs. An output whose labels are all
    equal gives 1 if it is predicted without error, and 0 otherwise. R² is NaN for fewer than two
    examples.

    Args:
        name: the key in `metrics.json`; the default is `r2`.
        reader: a NumberReader.
    """

    NAME = "r2"

    @override
    def reset(self) -> None:
        super().reset()
        self._examples, self._first = 0, None
        self._mean = self._spread = 0.0  # of label - first label, and Σ weight (… - mean)²

    def _errors(self, batch: NumberBatch) -> np.ndarray:
        return (batch.labels - batch.predictions) ** 2

    @override
    def add(self, batch: NumberBatch) -> None:
        present = batch.weights > 0
        weight = float(batch.weights.sum())
        if not weight:
            return
        self._examples += int(present.sum())
        if self._first is None:
            self._first = batch.labels[present][0]
        # Subtract the first label, so that equal labels have a spread of exactly 0. Merge batches
        # as in Chan, Golub, LeVeque 1979, so that a large mean does not cancel the spread.
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

    @override
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
            f"{name} of a regression have shape {list(array.shape)}; expected [n] or [n, k]."
        )
    if np.isinf(array).any():
        raise UserError(f"{name} contain an infinite number; leave such examples out.")
    return array.reshape(len(array), -1) if array.size else array.reshape(0, 1)
