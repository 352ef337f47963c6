"""Metrics of classifiers; each equals scikit-learn's value on the same predictions.

There are two intended differences. Examples of weight 0 are ignored, also when deciding which
classes occur. The log loss of logits is exact, not clipped at 36 nats.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.metrics import ranking
from tfbig.metrics.class_reader import ClassBatch, ClassReader
from tfbig.metrics.metric import MeanMetric, Metric

Average = Literal["macro", "micro", "weighted", "binary", "per_class"]

MOST_EXAMPLES = 10_000_000  # kept for a ranking
MOST_SCORES = 100_000_000  # examples x classes
_MOST_SORTED = 2_000_000  # scores whose sorted order is cached: 32 MB
MOST_CLASSES = 4096  # in a confusion matrix: 128 MiB


class Accuracy(MeanMetric):
    """The share of examples whose predicted class is the label.

    Example:

        Accuracy()  # for predictions [n, c]
        Accuracy(ClassReader(binary=True))

    Args:
        reader: a ClassReader; the default reads predictions [n, c].
        name: the key in `metrics.json`.
    """

    def __init__(self, reader: ClassReader | None = None, name: str = "accuracy"):
        super().__init__(name, reader or ClassReader())

    @override
    def values(self, batch: ClassBatch) -> np.ndarray:
        return (batch.predicted == batch.labels).astype(np.float64)


class LogLoss(MeanMetric):
    """The mean of -log(probability of the label), in nats; 0 is perfect.

    Probabilities of 0 are replaced by the epsilon of their dtype (float32: 1.2e-7), as in
    scikit-learn. It is defined even if all labels are of one class, as scikit-learn's is with
    `labels=`.

    Args:
        reader, name: as in `Accuracy`.
    """

    def __init__(self, reader: ClassReader | None = None, name: str = "log_loss"):
        super().__init__(name, reader or ClassReader())

    @override
    def values(self, batch: ClassBatch) -> np.ndarray:
        return batch.nats


class TopK(MeanMetric):
    """The share of examples whose label is among the k classes with the highest scores.

    Ties are broken in favour of the higher class number, as in scikit-learn's
    top_k_accuracy_score. The result is 1 if there are at most k classes.

    Args:
        k: at least 1.
        reader, name: as in `Accuracy`; predictions [n, c]. Default name: `top_<k>_accuracy`.
    """

    def __init__(self, k: int, reader: ClassReader | None = None, name: str | None = None):
        if not isinstance(k, int) or k < 1:
            raise UserError(f"top-k needs an integer k of at least 1; got {k!r}.")
        self._k = k
        super().__init__(name or f"top_{k}_accuracy", reader or ClassReader())

    @override
    def values(self, batch: ClassBatch) -> np.ndarray:
        scores = batch.scores
        if scores.ndim == 1:
            raise UserError("top-k is for more than two classes, with predictions [n, c].")
        own = np.take_along_axis(scores, batch.labels[:, None], axis=1)
        later = np.arange(scores.shape[1]) > batch.labels[:, None]
        ahead = (scores > own).sum(axis=1) + ((scores == own) & later).sum(axis=1)
        return (ahead < self._k).astype(np.float64)


class _PerClass(Metric):
    """Base class of precision, recall and F1, which need three sums per class."""

    def __init__(
        self,
        average: Average = "macro",
        reader: ClassReader | None = None,
        name: str | None = None,
    ):
        if average not in ("macro", "micro", "weighted", "binary", "per_class"):
            raise UserError(
                f'average={average!r}; write "macro", "micro", "weighted", "per_class" or '
                '"binary" (for class 1).'
            )
        self._average = average
        kind = type(self).__name__.lower()
        default = kind if average == "binary" else f"{kind}_{average}"
        super().__init__(name or default, reader or ClassReader(binary=average == "binary"))

    def reset(self) -> None:
        self._sums = np.zeros([0, 3])  # [class, (hits, predicted, labels)]

    def add(self, batch: ClassBatch) -> None:
        classes = 2 if batch.probabilities.ndim == 1 else batch.probabilities.shape[1]
        if self._average == "binary" and classes != 2:
            raise UserError(f'average="binary" needs two classes; the predictions have {classes}.')
        self._sums = self._sums if len(self._sums) else np.zeros([classes, 3])
        hit = batch.weights * (batch.predicted == batch.labels)
        numbers_and_weights = (
            (batch.labels, hit),
            (batch.predicted, batch.weights),
            (batch.labels, batch.weights),
        )
        for column, (numbers, weights) in enumerate(numbers_and_weights):
            self._sums[:, column] += np.bincount(numbers, weights, minlength=classes)

    def result(self) -> float | dict[str, float]:
        present = np.flatnonzero(self._sums[:, 1] + self._sums[:, 2])
        hits, predicted, labels = self._sums[present].T
        if not len(present):
            return {} if self._average == "per_class" else float("nan")
        if self._average == "micro":
            return float(self._ratio(hits.sum(), predicted.sum(), labels.sum()))
        if self._average == "binary":
            return float(self._ratio(*self._sums[1]))
        each = self._ratio(hits, predicted, labels)
        if self._average == "per_class":
            return {str(number): float(value) for number, value in zip(present, each, strict=True)}
        return float(np.average(each, weights=labels if self._average == "weighted" else None))

    def _ratio(self, hits: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Precision(_PerClass):
    """The share of the examples predicted as a class whose label is that class.

    A class that is never predicted has the precision 0, as in scikit-learn. A class that occurs
    neither in labels nor in predictions is excluded from averages and from "per_class".

    Args:
        average: "macro" (mean over classes), "micro" (over all examples), "weighted" (mean over
            classes, weighted by their frequency in the labels), "per_class" (a dict by class
            number), or "binary" (for class 1).
        reader, name: as in `Accuracy`. The default name is `precision_<average>`, or `precision`
            for "binary".
    """

    def _ratio(self, hits, predicted, labels):
        return _divide(hits, predicted)


class Recall(_PerClass):
    """The share of the examples of a class that are predicted as it; see `Precision`."""

    def _ratio(self, hits, predicted, labels):
        return _divide(hits, labels)


class F1(_PerClass):
    """The harmonic mean of precision and recall; see `Precision`."""

    def _ratio(self, hits, predicted, labels):
        return _divide(2 * hits, predicted + labels)


class ConfusionMatrix(Metric):
    """The weight of examples by label (row) and predicted class (column), float64 [c, c].

    Args:
        reader, name: as in `Accuracy`.
    """

    def __init__(self, reader: ClassReader | None = None, name: str = "confusion_matrix"):
        super().__init__(name, reader or ClassReader())

    @override
    def reset(self) -> None:
        self._matrix = np.zeros([0, 0])

    @override
    def add(self, batch: ClassBatch) -> None:
        classes = 2 if batch.probabilities.ndim == 1 else batch.probabilities.shape[1]
        if classes > MOST_CLASSES:
            raise UserError(
                f"a confusion matrix of {classes} classes is too large (at most {MOST_CLASSES}); "
                'leave "confusion_matrix" out of the metrics.'
            )
        cells = np.bincount(
            batch.labels * classes + batch.predicted, batch.weights, minlength=classes**2
        ).reshape(classes, classes)
        self._matrix = self._matrix + cells if len(self._matrix) else cells

    @override
    def result(self) -> np.ndarray:
        return self._matrix


class _Ranked(Metric):
    """Base class of metrics that keep all labels and scores and rank them at the end."""

    def __init__(
        self,
        average: Literal["macro", "per_class"] = "macro",
        reader: ClassReader | None = None,
        name: str | None = None,
    ):
        if average not in ("macro", "per_class"):
            raise UserError(f'average={average!r}; write "macro" or "per_class".')
        self._average = average
        kind = {RocAuc: "roc_auc", PrAuc: "pr_auc"}[type(self)]
        default = kind if average == "macro" else f"{kind}_per_class"
        self._sorted: tuple[np.ndarray | None, list] = (None, [])  # scores, thresholds by column
        super().__init__(name or default, reader or ClassReader())

    def reset(self) -> None:
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
        self._examples = self._scores = 0

    def add(self, batch: ClassBatch) -> None:
        self._examples += len(batch.scores)
        self._scores += batch.scores.size
        if self._examples > MOST_EXAMPLES or self._scores > MOST_SCORES:
            raise UserError(
                f"{self.name} ranks all examples and keeps at most {MOST_EXAMPLES:,} of them and "
                f"{MOST_SCORES:,} scores; there are {self._examples:,} examples with "
                f"{self._scores:,} scores. Leave {self.name!r} out of the metrics, or evaluate on "
                "a random subset."
            )
        weights = None if np.all(batch.weights == 1) else batch.weights
        self._kept.append((batch.labels.astype(np.int32), batch.scores, weights))

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the ROC curve of each class against the rest: false and true positive rates."""
        return {
            name: ranking.roc_curve(*counts) for name, counts in self._counts_by_class().items()
        }

    def result(self) -> float | dict[str, float]:
        each = {name: self._area(*counts) for name, counts in self._counts_by_class().items()}
        if self._average == "per_class":
            return each
        return float(np.mean(list(each.values()))) if each else float("nan")

    def _counts_by_class(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        if not self._examples:
            return {}
        labels, scores, weights = self._kept[0] if len(self._kept) == 1 else self._concatenate()
        first = 1 if scores.ndim == 1 else 0
        return {
            str(number): ranking.counts_above(labels == number, *order_and_ends, weights)
            for number, order_and_ends in enumerate(self._thresholds(scores), first)
        }

    def _thresholds(self, scores: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        columns = scores[:, None] if scores.ndim == 1 else scores
        per_column = (ranking.thresholds(column) for column in columns.T)
        if scores.size > _MOST_SORTED:
            return per_column  # lazily, one at a time
        if self._sorted[0] is not scores:  # a bootstrap changes only the weights
            self._sorted = scores, list(per_column)
        return self._sorted[1]

    def _concatenate(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        labels, scores = (np.concatenate([kept[i] for kept in self._kept]) for i in (0, 1))
        weights = None
        if any(kept[2] is not None for kept in self._kept):
            weights = np.concatenate(
                [np.ones(len(kept[0])) if kept[2] is None else kept[2] for kept in self._kept]
            )
        self._kept = [(labels, scores, weights)]
        return self._kept[0]

    def _area(self, true: np.ndarray, false: np.ndarray) -> float:
        raise NotImplementedError


class RocAuc(_Ranked):
    """The area under the ROC curve, by exact ranking; 0.5 is chance.

    For two classes, it is the area of class 1. For more, it is the mean over each class against
    the rest ("macro"). It is NaN if all labels are of one class, and the mean is NaN if a class
    is missing, as in scikit-learn's roc_auc_score with `labels=`; use "per_class" then.

    Args:
        average: "macro", or "per_class" for a dict by class number.
        reader, name: as in `Accuracy`. The default name is `roc_auc` or `roc_auc_per_class`.

    Raises:
        UserError: `update` has received more than 10 million examples or 100 million scores.
    """

    def _area(self, true: np.ndarray, false: np.ndarray) -> float:
        return ranking.roc_auc(true, false)


class PrAuc(_Ranked):
    """The area under the precision-recall curve: scikit-learn's average precision.

    For two classes, it is the area of class 1, or 0 if no label is 1, as in scikit-learn. For
    more, each class is measured against the rest. A missing class gives NaN, where scikit-learn
    raises an error.

    Args:
        average, reader, name: as in `RocAuc`.

    Raises:
        UserError: as in `RocAuc`.
    """

    def _area(self, true: np.ndarray, false: np.ndarray) -> float:
        several = self._scores > self._examples
        if several and not true[-1]:
            return float("nan")
        return ranking.average_precision(true, false)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator = np.asarray(numerator, np.float64)
    denominator = np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
