"""What a model itself feeds its metrics with, in `call` or `compute_loss`.

Keras's own metrics are sums over examples only where they are given a value for each example. A
trace with batches of no fixed size shows what they are given.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.programs.metric_sums import MEANS, NUMBERS, inner_metrics, is_sum
from tfbig.programs.observing import RecordingScope

log = logging.getLogger("tfbig")


def fed_metrics(
    model: keras.Model,
    metrics: Sequence[keras.metrics.Metric],
    call: Callable[[Any, Any, Any, bool], None],
    symbols: tuple[Any, Any, Any],
) -> dict[int, str]:
    """By the id of a variable: MEANS or NUMBERS, for metrics given one number for a batch.

    Args:
        model: compiled and built.
        metrics: those that are reported.
        call: the forward pass and `compute_loss`, from features, labels, weights and `training`.
        symbols: features, labels and weights, as structures of KerasTensors of shape [None, …].
    """
    compiled = (_private_api.compiled_metrics(model), *_private_api.loss_trackers(model))
    own = [m for m in metrics if not any(m is other for other in compiled)]
    watched = [m for m in inner_metrics(own) if is_sum(m)]
    kinds: dict[int, str] = {}
    if not watched:
        return kinds

    def traced(features, labels, weight):
        values = [(v, v.value) for v in model.variables]
        for training in (True, False):
            with RecordingScope(values), _watching(watched, kinds):
                call(features, labels, weight, training)

    try:
        _private_api.traced_symbolically(traced, *symbols)
    except Exception as error:  # it may need batches of one size
        log.debug("the model could not be traced with batches of any size: %s", error)
        return {id(v): NUMBERS for metric in watched for v in metric.variables}
    return kinds


@contextlib.contextmanager
def _watching(metrics: Sequence[keras.metrics.Metric], kinds: dict[int, str]) -> Iterator[None]:
    """Adds to `kinds` what the metrics are given inside the block."""

    def watched(metric, update):
        def update_state(*arguments, **keywords):
            kind = _kind(metric, *arguments, **keywords)
            for variable in metric.variables if kind else ():
                worse = NUMBERS in (kind, kinds.get(id(variable)))
                kinds[id(variable)] = NUMBERS if worse else kind
            return update(*arguments, **keywords)

        return update_state

    for metric in metrics:
        metric.update_state = watched(metric, metric.update_state)
    try:
        yield
    finally:
        for metric in metrics:
            del metric.update_state


def _kind(metric: keras.metrics.Metric, *arguments: Any, **keywords: Any) -> str | None:
    """MEANS or NUMBERS; None: the metric is given a value for each example."""
    given = keras.tree.flatten((arguments, keywords))
    if all(value is None or _has_examples(value) for value in given):
        return None
    weight = keywords.get("sample_weight", arguments[1] if len(arguments) > 1 else None)
    # The mean of what parts give it is exact if they give it a mean and weigh it alike.
    return MEANS if type(metric) is keras.metrics.Mean and _is_constant(weight) else NUMBERS


def _has_examples(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    rank = shape.rank if isinstance(shape, tf.TensorShape) else len(shape or ())
    return bool(rank) and shape[0] is None


def _is_constant(weight: Any) -> bool:
    if isinstance(weight, keras.Variable):
        return False
    return not tf.is_tensor(weight) or tf.get_static_value(weight) is not None
