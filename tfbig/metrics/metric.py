"""The base classes of hold-out metrics, which are computed on the host in float64."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from typing_extensions import override

from tfbig.errors import UserError

Value = float | dict[str, float] | np.ndarray


@dataclasses.dataclass
class MetricBatch:
    """Checked labels and predictions in a standard form; each field has one entry per example.

    Attributes:
        weights: float64 [n], the weight of each example.
    """

    weights: np.ndarray

    def take(self, indices: np.ndarray) -> Self:
        """Returns the examples at these indices, in this order."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: x[indices] for name, x in fields.items()})

    def times(self, counts: np.ndarray) -> Self:
        """Returns the same examples, weighted as if example i occurred `counts[i]` times."""
        return dataclasses.replace(self, weights=self.weights * counts)


class BatchReader(abc.ABC):
    """Converts labels and predictions to a MetricBatch; the metrics of a list share one reader."""

    @abc.abstractmethod
    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> MetricBatch:
        """Returns the MetricBatch; raises UserError if labels and predictions do not match."""


class Metric(abc.ABC):
    """A metric over all examples of a hold-out set.

    The state consists of float64 sums, or of the examples themselves if the metric needs a
    ranking. The result does not depend on the batch size, apart from float64 rounding.

    Example:

        accuracy = Accuracy()
        accuracy.update(np.array([1, 0]), np.array([[0.2, 0.8], [0.9, 0.1]]))
        accuracy.result()  # 1.0

    Args:
        name: the key in `metrics.json`.
        reader: converts labels and predictions to the form that `add` expects.
    """

    def __init__(self, name: str, reader: BatchReader):
        self.name, self.reader = name, reader
        self.reset()

    def update(self, labels: Any, predictions: Any, weights: Any = None) -> None:
        """Adds a batch.

        Args:
            labels: an array as the metric's reader expects it.
            predictions: an array as the metric's reader expects it.
            weights: None, or an array [n] of numbers >= 0. Examples of weight 0 are ignored.
        """
        self.add(self.reader(labels, predictions, weights))

    @abc.abstractmethod
    def reset(self) -> None:
        """Resets the state to that without any examples."""

    @abc.abstractmethod
    def add(self, batch: MetricBatch) -> None:
        """Adds a batch that the reader has converted."""

    @abc.abstractmethod
    def result(self) -> Value:
        """Returns the metric over all examples so far; NaN if it is undefined."""


class MeanMetric(Metric):
    """A metric that is the weighted mean of one value per example."""

    @override
    def reset(self) -> None:
        self._sum = self._weight = 0.0

    @abc.abstractmethod
    def values(self, batch: MetricBatch) -> np.ndarray:
        """Returns one value per example, float [n]."""

    @override
    def add(self, batch: MetricBatch) -> None:
        self._sum += weighted_sum(self.values(batch), batch.weights)
        self._weight += float(batch.weights.sum())

    @override
    def result(self) -> float:
        return self._sum / self._weight if self._weight else float("nan")


def weighted_sum(values: np.ndarray, weights: np.ndarray) -> float:
    """Returns the sum of weights × values; an infinite value of weight 0 contributes 0."""
    return float(np.sum(np.multiply(values, weights, where=weights > 0, out=np.zeros(len(values)))))


def update_all(
    metrics: Iterable[Metric], labels: Any, predictions: Any, weights: Any = None
) -> None:
    """Adds a batch to all metrics; it is converted once for metrics that share a reader.

    Example:

        metrics = metrics_for("classes")
        for labels, predictions in collected:
            update_all(metrics, labels, predictions)
        figures = results(metrics)

    Args:
        metrics: the result of `metrics_for`, or any other metrics.
        labels, predictions, weights: as in `Metric.update`.
    """
    metrics = list(metrics)
    batches = read_all(metrics, labels, predictions, weights)
    for metric in metrics:
        metric.add(batches[id(metric.reader)])


def read_all(
    metrics: Iterable[Metric], labels: Any, predictions: Any, weights: Any = None
) -> dict[int, MetricBatch]:
    """Converts a batch with each reader of these metrics; returns batches by `id(reader)`."""
    readers = {id(metric.reader): metric.reader for metric in metrics}
    return {key: reader(labels, predictions, weights) for key, reader in readers.items()}


def results(metrics: Iterable[Metric]) -> dict[str, Value]:
    """Returns the results of all metrics by name."""
    return {metric.name: metric.result() for metric in metrics}


def read_weights(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Checks weights and broadcasts weights per example to the shape of the labels.

    Args:
        weights: None (1 for all), or numbers >= 0 or a mask of shape [n], [n, 1] or `shape`.
        shape: the shape of the labels.

    Returns:
        A float64 array of shape [product of shape].

    Raises:
        UserError: a weight is negative or not finite, or the shape does not match.
    """
    if weights is None:
        return np.ones(int(np.prod(shape)))
    values = np.asarray(weights).astype(np.float64)
    if values.shape != shape:
        squeezed = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if squeezed.shape != shape[:1]:
            raise UserError(
                f"weights have shape {list(values.shape)}, but the labels {list(shape)}; pass one "
                f"number per example, shape [{shape[0]}], or one per label."
            )
        values = np.broadcast_to(squeezed.reshape([-1] + [1] * (len(shape) - 1)), shape)
    values = values.reshape(-1)
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise UserError(
            f"a weight is {values[~(np.isfinite(values) & (values >= 0))][0]}; weights must be "
            "finite and at least 0."
        )
    return values


def as_floats(values: Any, name: str) -> np.ndarray:
    """Converts values to floats and checks that there is no NaN or +inf (-inf masks a logit).

    Args:
        values: an array of numbers. float16, float32 and float64 keep their dtype; dtypes that
            NumPy lacks, such as bfloat16, become float32.
        name: the name of the values in the error message.

    Raises:
        UserError: the values are not numbers, or one is NaN or +inf.
    """
    array: Any = np.asarray(values)
    if array.dtype.kind in "biu":
        array = array.astype(np.float64)
    elif array.dtype not in (np.float16, np.float32, np.float64):
        try:
            array = array.astype(np.float64 if array.dtype.kind == "O" else np.float32)
        except (TypeError, ValueError):
            raise UserError(f"{name} must be numbers; got an array of {array.dtype}.") from None
    wrong = np.isnan(array) | np.isposinf(array)
    if wrong.any():
        first = int(np.argwhere(wrong)[0][0])
        raise UserError(
            f"{name} have NaN or infinity, the first in example {first} of the batch; metrics are "
            "undefined then. Check for diverged training or for missing values in the data."
        )
    return array
