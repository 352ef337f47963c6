"""The metrics that a compiled model reports: how they are updated, and what they say."""

from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.programs.keras.own_reports import OwnReport, flat_logs
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
        self._own_results = _private_api.overrides(model, "get_metrics_result")
        self._own_reset = _private_api.overrides(model, "reset_metrics")
        self._report: OwnReport | None = None

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

    def observe(self, symbols: tuple[Any, Any, Any, Any]) -> list[str]:
        """Finds out what the model's own compute_metrics returns, if it has one.

        Args:
            symbols: features, labels, outputs and weights, as structures of KerasTensors.

        Returns:
            Warnings, of what is not reported.
        """
        if not self.own:
            return []
        tracker = _private_api.loss_tracker(self._model)
        self._report = OwnReport(self._model, [*tracker.variables, *self.variables], symbols)
        return self._report.warnings

    def results(self, loss: float | None = None) -> dict[str, Any]:
        """Their values by name, tensors; those of a dict under its own names, as `fit` has them.

        Where the model has its own compute_metrics or get_metrics_result, what that returns.

        Args:
            loss: of the same examples, which own methods may read. Without it none is returned.
        """
        report = self._report if self._report is not None and self._report.known else None
        if report is None and not self._own_results:
            return self._of_metrics()
        tracker = _private_api.loss_tracker(self._model)
        tracker.reset_state()
        if loss is not None:
            tracker.update_state(loss)
        results = report() if report else flat_logs(self._model.get_metrics_result())
        if loss is None or np.float32(loss) == np.float32(results.get(tracker.name, loss)):
            results.pop(tracker.name, None)  # which the loop reports itself, in more digits
        return results

    def _of_metrics(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for metric in self.all:
            result = metric.result()
            results.update(flat_logs(result if isinstance(result, dict) else {metric.name: result}))
        return results

    def reset(self) -> None:
        if self._own_reset:
            self._model.reset_metrics()
            return
        for metric in self.all:
            metric.reset_state()

    def names(self, sums: list[str], *kinds: str) -> str:
        """The names of those that have variables of some kinds, for a message."""
        return names_of(self.all, sums, *kinds)
