"""Finds metrics that a model updates with one number per batch, in `call` or `compute_loss`.

Metrics of Keras are sums over examples only if they receive one value per example. A trace with a
dynamic batch size shows what they receive.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.programs.metric_aggregation import BATCH_MEANS, BATCH_SCALARS, inner_metrics, is_sum
from tfbig.programs.tracing import RecordingScope

log = logging.getLogger("tfbig")


def find_scalar_inputs(
    model: keras.Model,
    metrics: Sequence[keras.metrics.Metric],
    call: Callable[[Any, Any, Any, bool], None],
    symbols: tuple[Any, Any, Any],
) -> dict[int, str]:
    """Finds the metrics that the model itself updates with one number per batch.

    Args:
        model: compiled and built.
        metrics: the reported metrics.
        call: the forward pass and `compute_loss`, from features, labels, weights and `training`.
        symbols: features, labels and weights, as structures of KerasTensors of shape [None, …].

    Returns:
        By the id of a metric variable, BATCH_MEANS or BATCH_SCALARS. Variables of metrics that
        receive one value per example are left out.
    """
    compiled = (_private_api.compiled_metrics(model), *_private_api.loss_trackers(model))
    updated_by_model = [m for m in metrics if not any(m is other for other in compiled)]
    candidates = [m for m in inner_metrics(updated_by_model) if is_sum(m)]
    kinds: dict[int, str] = {}
    if not candidates:
        return kinds

    def traced(features, labels, weight):
        values = [(v, v.value) for v in model.variables]
        for training in (True, False):
            with RecordingScope(values), _recording_updates(candidates, kinds):
                call(features, labels, weight, training)

    try:
        _private_api.trace_symbolically(traced, *symbols)
    except Exception as error:  # the model may need a fixed batch size
        log.debug("the model could not be traced with a dynamic batch size: %s", error)
        return {id(v): BATCH_SCALARS for metric in candidates for v in metric.variables}
    return kinds


@contextlib.contextmanager
def _recording_updates(
    metrics: Sequence[keras.metrics.Metric], kinds: dict[int, str]
) -> Iterator[None]:
    """Adds to `kinds` what the metrics receive inside the block."""

    def recorded(metric, update):
        def update_state(*arguments, **keywords):
            kind = _kind(metric, *arguments, **keywords)
            for variable in metric.variables if kind else ():
                worse = BATCH_SCALARS in (kind, kinds.get(id(variable)))
                kinds[id(variable)] = BATCH_SCALARS if worse else kind
            return update(*arguments, **keywords)

        return update_state

    for metric in metrics:
        metric.update_state = recorded(metric, metric.update_state)
    try:
        yield
    finally:
        for metric in metrics:
            del metric.update_state


def _kind(metric: keras.metrics.Metric, *arguments: Any, **keywords: Any) -> str | None:
    """BATCH_MEANS or BATCH_SCALARS; None if the metric receives one value per example."""
    given = keras.tree.flatten((arguments, keywords))
    if all(value is None or _has_examples(value) for value in given):
        return None
    weight = keywords.get("sample_weight", arguments[1] if len(arguments) > 1 else None)
    # A Mean over micro-batches is exact if each passes a mean, with equal weights.
    return (
        BATCH_MEANS
        if type(metric) is keras.metrics.Mean and _is_constant(weight)
        else BATCH_SCALARS
    )


def _has_examples(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    rank = shape.rank if isinstance(shape, tf.TensorShape) else len(shape or ())
    return bool(rank) and shape[0] is None


def _is_constant(weight: Any) -> bool:
    if isinstance(weight, keras.Variable):
        return False
    return not tf.is_tensor(weight) or tf.get_static_value(weight) is not None
