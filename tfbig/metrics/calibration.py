"""The expected calibration error of classifiers."""

import dataclasses

import numpy as np
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.metrics.class_reader import ClassBatch, ClassReader
from tfbig.metrics.metric import Metric


@dataclasses.dataclass(frozen=True)
class CalibrationBins:
    """Confidence and accuracy in bins of equal width.

    Attributes:
        edges: float64 [bins + 1], the edges of the bins.
        confidence: float64 [bins], the mean confidence in a bin; NaN if it is empty.
        accuracy: float64 [bins], the share of correct predictions; NaN if the bin is empty.
        weight: float64 [bins], the total weight of the examples in a bin.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    weight: np.ndarray


class CalibrationError(Metric):
    """The expected calibration error: the weighted mean of |accuracy - confidence| over bins.

    The confidence is the probability of the predicted class. The bins ((i-1)/m, i/m] have equal
    width, as in Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML
    2017. 0 is perfect.

    Args:
        bins: the number of bins; 15 in the paper.
        reader, name: as in `Accuracy`.
    """

    def __init__(
        self,
        bins: int = 15,
        reader: ClassReader | None = None,
        name: str = "expected_calibration_error",
    ):
        if not isinstance(bins, int) or bins < 1:
            raise UserError(f"bins={bins!r}: expected an integer of at least 1.")
        self._edges = np.linspace(0, 1, bins + 1)
        super().__init__(name, reader or ClassReader())

    @override
    def reset(self) -> None:
        self._sums = np.zeros([3, len(self._edges) - 1])  # confidence, correct, weight

    @override
    def add(self, batch: ClassBatch) -> None:
        probabilities = batch.probabilities.astype(np.float64)
        confidence = (
            np.maximum(probabilities, 1 - probabilities)
            if probabilities.ndim == 1
            else probabilities.max(axis=1)
        )
        bins = self._sums.shape[1]
        index = np.clip(np.searchsorted(self._edges, confidence, side="left") - 1, 0, bins - 1)
        correct = batch.predicted == batch.labels
        for row, values in enumerate((confidence, correct, 1.0)):
            self._sums[row] += np.bincount(index, batch.weights * values, minlength=bins)

    def bins(self) -> CalibrationBins:
        """Returns the bins, for a reliability diagram."""
        confidence, correct, weight = self._sums
        empty = np.where(weight > 0, weight, np.nan)
        return CalibrationBins(self._edges, confidence / empty, correct / empty, weight)

    @override
    def result(self) -> float:
        confidence, correct, weight = self._sums
        total = weight.sum()
        return float(np.abs(correct - confidence).sum() / total) if total else float("nan")
