"""The metrics that a compiled model reports: how they are updated, and what they say."""

from collections.abc import Mapping
from typing import Any

import keras

from tfbig import _private_api
from tfbig.programs.metric_sums import names_of


class ReportedMetrics:
    """A compiled and built model's metrics, but the tracker of its loss.

    Args:
        model: compiled and built.

    Attributes:
        all: the metrics.
        variables: theirs, in order.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self.all = _private_api.reported_metrics(model)
        self.variables = [v for metric in self.all for v in metric.variables]
        self.own = _private_api.overrides(model, "compute_metrics")

    def update(self, features: Any, labels: Any, outputs: Any, weight: Any) -> None:
        """Updates the metrics as the model does after its forward pass."""
        compiled = _private_api.compiled_metrics(self._model)
        if self.own:
            self._model.compute_metrics(features, labels, outputs, sample_weight=weight)
        elif compiled is not None:
            compiled.update_state(labels, outputs, weight)

    def update_padded(
        self, features: Any, labels: Any, outputs: Any, weight: Any, row_weight: Any
    ) -> None:
        """The same where `row_weight` may be 0 for padding; None: there is none."""
        if row_weight is None or self.own:
            self.update(features, labels, outputs, weight)
        else:
            _private_api.update_padded_metrics(self._model, labels, outputs, weight, row_weight)

    def results(self) -> dict[str, Any]:
        """Their values by name, tensors; those of a dict under its own names, as `fit` has them."""
        results: dict[str, Any] = {}
        for metric in self.all:
            result = metric.result()
            results.update(flat_logs(result if isinstance(result, dict) else {metric.name: result}))
        return results

    def reset(self) -> None:
        for metric in self.all:
            metric.reset_state()

    def names(self, sums: list[str], *kinds: str) -> str:
        """The names of those that have variables of some kinds, for a message."""
        return names_of(self.all, sums, *kinds)


def flat_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs with those of dicts in them, as `fit` shows them."""
    flat = {}
    for name, value in logs.items():
        flat.update(flat_logs(value) if isinstance(value, dict) else {str(name): value})
    return flat
