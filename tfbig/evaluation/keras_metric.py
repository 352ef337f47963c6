"""Keras metrics among those of a hold-out set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfbig.metrics.metric import Batch, Metric, Reading, Value


@dataclasses.dataclass
class _GivenBatch(Batch):
    labels: Any
    predictions: Any


class _AsGiven(Reading):
    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> _GivenBatch:
        return _GivenBatch(weights, labels, predictions)


class KerasMetric(Metric):
    """A keras.metrics.Metric, fed with whole global batches on the host.

    Example:

        metric = KerasMetric(keras.metrics.AUC(name="auc"))

    Args:
        metric: its state is set to its start. Sample weights are handed to it.
    """

    def __init__(self, metric: keras.metrics.Metric):
        self._metric = metric
        super().__init__(metric.name, _AsGiven())

    def reset(self) -> None:
        self._metric.reset_state()

    def add(self, batch: _GivenBatch) -> None:
        self._metric.update_state(batch.labels, batch.predictions, sample_weight=batch.weights)

    def result(self) -> Value:
        """One number, or a dict: by the metric's own keys, or by class number."""
        value = self._metric.result()
        if isinstance(value, Mapping):
            return {name: float(keras.ops.convert_to_numpy(each)) for name, each in value.items()}
        value = keras.ops.convert_to_numpy(value)
        if value.ndim == 0:
            return float(value)
        return {str(i): float(each) for i, each in enumerate(np.ravel(value))}
