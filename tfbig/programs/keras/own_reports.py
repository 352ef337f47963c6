"""What a model's own `compute_metrics` reports, from the state of its metrics alone.

The loop adds up metrics over many batches and asks for their values between them, where there is
no batch to call `compute_metrics` with. So it is traced once, its updates are left out, and of the
trace only what leads from the metrics' state to the values is run.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfbig.programs.observing import depends_on


class OwnReport:
    """Computes what `compute_metrics` returns after a batch that changes no metric.

    Args:
        model: compiled and built, with its own `compute_metrics`.
        variables: of its metrics and of the tracker of its loss.
        symbols: features, labels, outputs and weights, as structures of KerasTensors.

    Attributes:
        known: whether it is known; otherwise a warning says why.
        warnings: of what is left out.
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
            left = iter(tensors)
            features, labels, outputs, weight = keras.tree.map_structure(
                lambda symbol: None if symbol is None else next(left), symbols
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
                f"({' '.join(str(error).split())[:200]}): the values of the metrics are reported, "
                "and not what it returns"
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
        """The values by name, from the variables as they are now."""
        values = self._read(*(tf.convert_to_tensor(v.numpy()) for v in self._variables))
        return dict(zip(self._names, values, strict=True))


class _Frozen(keras.StatelessScope):
    """Variables keep the values that it is given, whatever they are assigned."""

    def add_update(self, update: tuple) -> None:
        pass


def flat_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs with those of dicts in them, as `fit` shows them."""
    flat = {}
    for name, value in logs.items():
        flat.update(flat_logs(value) if isinstance(value, dict) else {str(name): value})
    return flat
