"""The metrics that a compiled model reports: how they are updated, and their results."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.programs.metric_aggregation import names_of
from tfbig.programs.tracing import depends_on


class ReportedMetrics:
    """The metrics of a compiled and built model, without the tracker of its loss.

    Args:
        model: compiled and built.

    Attributes:
        all: the metrics.
        variables: the variables of the metrics, in order.
        custom: whether the model overrides compute_metrics.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self.all = _private_api.reported_metrics(model)
        self.variables = [v for metric in self.all for v in metric.variables]
        self.custom = _private_api.overrides(model, "compute_metrics")
        self._custom_results = _private_api.overrides(model, "get_metrics_result")
        self._custom_reset = _private_api.overrides(model, "reset_metrics")
        self._report: CustomMetricsReport | None = None

    def update(self, features: Any, labels: Any, outputs: Any, weight: Any) -> None:
        """Updates the metrics as the model does after its forward pass."""
        compiled = _private_api.compiled_metrics(self._model)
        if self.custom:
            self._model.compute_metrics(features, labels, outputs, sample_weight=weight)
        elif compiled is not None:
            compiled.update_state(labels, outputs, weight)

    def update_padded(
        self, features: Any, labels: Any, outputs: Any, weight: Any, row_weight: Any
    ) -> None:
        """Updates the metrics with a batch whose `row_weight` is 0 for padding.

        None for `row_weight` means that there is no padding.
        """
        if row_weight is None or self.custom:
            self.update(features, labels, outputs, weight)
        else:
            _private_api.update_padded_metrics(self._model, labels, outputs, weight, row_weight)

    def observe(self, symbols: tuple[Any, Any, Any, Any]) -> list[str]:
        """Traces a custom compute_metrics, if the model has one.

        Args:
            symbols: features, labels, outputs and weights, as structures of KerasTensors.

        Returns:
            Warnings about values that are not reported.
        """
        if not self.custom:
            return []
        tracker = _private_api.loss_tracker(self._model)
        self._report = CustomMetricsReport(
            self._model, [*tracker.variables, *self.variables], symbols
        )
        return self._report.warnings

    def results(self, loss: float | None = None) -> dict[str, Any]:
        """The values of the metrics by name, as tensors, under the names of `fit`.

        A custom compute_metrics or get_metrics_result determines what is returned.

        Args:
            loss: the loss on the same examples, which custom methods may read. Without it the
                loss is not part of the result.
        """
        report = self._report if self._report is not None and self._report.known else None
        if report is None and not self._custom_results:
            return self._results_by_name()
        tracker = _private_api.loss_tracker(self._model)
        tracker.reset_state()
        if loss is not None:
            tracker.update_state(loss)
        results = report() if report else flat_logs(self._model.get_metrics_result())
        if loss is None or np.float32(loss) == np.float32(results.get(tracker.name, loss)):
            results.pop(tracker.name, None)  # the loop reports it itself, with more digits
        return results

    def _results_by_name(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for metric in self.all:
            result = metric.result()
            results.update(flat_logs(result if isinstance(result, dict) else {metric.name: result}))
        return results

    def reset(self) -> None:
        """Resets the metrics as the model does, by its own reset_metrics if it has one."""
        if self._custom_reset:
            self._model.reset_metrics()
            return
        for metric in self.all:
            metric.reset_state()

    def names(self, metric_kinds: list[str], *wanted: str) -> str:
        """The names of the metrics with variables of the wanted kinds, for a message."""
        return names_of(self.all, metric_kinds, *wanted)


class CustomMetricsReport:
    """Computes the result of a custom `compute_metrics` from the state of the metrics only.

    The loop sums metrics over many batches and reports them between batches, when there is no
    batch to call `compute_metrics` with. So the method is traced once without its updates, and
    only the part of the trace that leads from the state of the metrics to the values is run.

    Args:
        model: compiled and built, with a custom `compute_metrics`.
        variables: of its metrics and of the tracker of its loss.
        symbols: features, labels, outputs and weights, as structures of KerasTensors.

    Attributes:
        known: whether the trace succeeded. Otherwise a warning says why.
        warnings: about values that are not reported.
    """

    def __init__(self, model: keras.Model, variables: list, symbols: tuple):
        self._variables, self.warnings = variables, []
        self._names: list[str] = []
        self.known = False
        method = f"{type(model).__name__}.compute_metrics"
        found: dict[str, tf.Tensor] = {}
        batch: list[tf.Tensor] = []

        def traced(values, tensors):
            batch.extend(tensors)
            remaining = iter(tensors)
            features, labels, outputs, weight = keras.tree.map_structure(
                lambda symbol: None if symbol is None else next(remaining), symbols
            )
            with _Frozen(zip(variables, values, strict=True), initialize_variables=False):
                logs = model.compute_metrics(features, labels, outputs, sample_weight=weight)
            if isinstance(logs, dict):
                for name, value in flat_logs(logs).items():
                    found[name] = tf.identity(keras.ops.convert_to_tensor(value))
            return list(found.values())

        specs = [
            tf.TensorSpec(symbol.shape, symbol.dtype)
            for symbol in keras.tree.flatten(symbols)
            if symbol is not None
        ]
        states = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
        try:
            trace = tf.compat.v1.wrap_function(traced, [states, specs])
        except Exception as error:
            self.warnings.append(
                f"{method} could not be traced with batches of any size "
                f"({' '.join(str(error).split())[:200]}): the values of the metrics are reported "
                "instead of its result"
            )
            return
        if not found:
            return
        of_batch = [name for name, value in found.items() if depends_on(value, batch)]
        if of_batch:
            self.warnings.append(
                f"{method} computes {', '.join(map(repr, of_batch))} from the last batch itself, "
                "so it is not reported; update a metric with it, such as a keras.metrics.Mean, and "
                "return that metric's result()"
            )
        self._names = [name for name in found if name not in of_batch]
        self.known = True
        fetches = [found[name] for name in self._names]
        self._read = trace.prune(trace.inputs[: len(states)], fetches)

    def __call__(self) -> dict[str, tf.Tensor]:
        """The values by name, from the current values of the variables."""
        values = self._read(*(tf.convert_to_tensor(v.numpy()) for v in self._variables))
        return dict(zip(self._names, values, strict=True))


class _Frozen(keras.StatelessScope):
    """A scope in which variables keep their values, and assignments have no effect."""

    @override
    def add_update(self, update: tuple) -> None:
        pass


def flat_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested dicts of logs, as `fit` does."""
    flat = {}
    for name, value in logs.items():
        flat.update(flat_logs(value) if isinstance(value, dict) else {str(name): value})
    return flat
