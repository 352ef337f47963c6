"""What a hold-out metric is: fed batch by batch on the host, in float64."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from tfbig.errors import UserError

Value = float | dict[str, float] | np.ndarray


@dataclasses.dataclass
class Batch:
    """Labels and predictions, checked and in one form; every field has one entry per example.

    Attributes:
        weights: float64 [n].
    """

    weights: np.ndarray

    def take(self, indices: np.ndarray) -> Self:
        """The examples at these indices, in their order."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: x[indices] for name, x in fields.items()})

    def times(self, counts: np.ndarray) -> Self:
        """The same examples, each as if it were there `counts[i]` times."""
        return dataclasses.replace(self, weights=self.weights * counts)


class Reading(abc.ABC):
    """Turns what an evaluation collects into a Batch; metrics of one list share one Reading."""

    @abc.abstractmethod
    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> Batch:
        """Returns the Batch, or raises UserError if these do not go together."""


class Metric(abc.ABC):
    """A figure of merit over all examples of a hold-out set.

    The state is sums in float64, or the examples themselves where the figure needs a ranking. It
    does not depend on how the examples are cut into batches beyond the rounding of float64.

    Example:

        accuracy = Accuracy()
        accuracy.update(np.array([1, 0]), np.array([[0.2, 0.8], [0.9, 0.1]]))
        accuracy.result()  # 1.0

    Args:
        name: the key in `metrics.json`.
        reading: how labels and predictions are to be understood.
    """

    def __init__(self, name: str, reading: Reading):
        self.name, self.reading = name, reading
        self.reset()

    def update(self, labels: Any, predictions: Any, weights: Any = None) -> None:
        """Adds a batch.

        Args:
            labels: array, see the metric's reading.
            predictions: array, see the metric's reading.
            weights: None, or an array [n] of numbers >= 0. An example of weight 0 is as if it
                were not there.
        """
        self.add(self.reading(labels, predictions, weights))

    @abc.abstractmethod
    def reset(self) -> None:
        """Forgets all examples."""

    @abc.abstractmethod
    def add(self, batch: Batch) -> None:
        """Adds a batch that has been read."""

    @abc.abstractmethod
    def result(self) -> Value:
        """The figure over all examples so far; NaN where it is not defined."""


class MeanMetric(Metric):
    """The weighted mean of one value per example."""

    def reset(self) -> None:
        self._sum = self._weight = 0.0

    @abc.abstractmethod
    def values(self, batch: Batch) -> np.ndarray:
        """One value per example, float [n]."""

    def add(self, batch: Batch) -> None:
        self._sum += weighted_sum(self.values(batch), batch.weights)
        self._weight += float(batch.weights.sum())

    def result(self) -> float:
        return self._sum / self._weight if self._weight else float("nan")


def weighted_sum(values: np.ndarray, weights: np.ndarray) -> float:
    """The sum of weights × values; an infinite value of weight 0 counts nothing."""
    return float(np.sum(np.multiply(values, weights, where=weights > 0, out=np.zeros(len(values)))))


def update_all(
    metrics: Iterable[Metric], labels: Any, predictions: Any, weights: Any = None
) -> None:
    """Adds a batch to all metrics, read once for those that share a Reading.

    Example:

        metrics = metrics_for("classes")
        for labels, predictions in collected:
            update_all(metrics, labels, predictions)
        figures = results(metrics)

    Args:
        metrics: of one list of `metrics_for`, or any others.
        labels, predictions, weights: as in `Metric.update`.
    """
    metrics = list(metrics)
    batches = read_all(metrics, labels, predictions, weights)
    for metric in metrics:
        metric.add(batches[id(metric.reading)])


def read_all(
    metrics: Iterable[Metric], labels: Any, predictions: Any, weights: Any = None
) -> dict[int, Batch]:
    """A batch as each Reading of these metrics understands it, by the Reading's `id`."""
    readings = {id(metric.reading): metric.reading for metric in metrics}
    return {key: reading(labels, predictions, weights) for key, reading in readings.items()}


def results(metrics: Iterable[Metric]) -> dict[str, Value]:
    """The results of all metrics by name."""
    return {metric.name: metric.result() for metric in metrics}


def read_weights(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Checks weights for labels of this shape and spreads those per example over the tokens.

    Args:
        weights: None (1 for all), or numbers >= 0 or a mask of shape [n], [n, 1] or `shape`.
        shape: that of the labels.

    Returns:
        float64 [product of shape].

    Raises:
        UserError: for a weight that is negative or not finite, or for another shape.
    """
    if weights is None:
        return np.ones(int(np.prod(shape)))
    values = np.asarray(weights).astype(np.float64)
    if values.shape != shape:
        squeezed = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if squeezed.shape != shape[:1]:
            raise UserError(
                f"weights have shape {list(values.shape)}, but the labels {list(shape)}; give one "
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
    """An array of float16, float32 or float64 without NaN and +inf (-inf masks a logit).

    Args:
        values: numbers; types that NumPy does not know itself, as bfloat16, become float32.
        name: for the error.
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
            f"{name} have NaN or infinity, the first in example {first} of the batch; no metric is "
            "defined then. Look for a diverged training or for missing values in the data."
        )
    return array
