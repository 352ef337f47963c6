"""`tf.estimator.experimental`: hooks, and the networks of the canned estimators as functions."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.compat.gone import gone_estimator
from tfbig.errors import UserError
from tfbig.estimator.canned.networks import dnn_logits, linear_logits
from tfbig.estimator.hooks.early_stopping import (
    make_early_stopping_hook,
    stop_if_higher_hook,
    stop_if_lower_hook,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)
from tfbig.estimator.hooks.in_memory_evaluator import InMemoryEvaluatorHook
from tfbig.estimator.hooks.stop_at_step import StopAtStepHook

__all__ = [
    "InMemoryEvaluatorHook",
    "call_logit_fn",
    "dnn_logit_fn_builder",
    "linear_logit_fn_builder",
    "make_early_stopping_hook",
    "make_stop_at_checkpoint_step_hook",
    "stop_if_higher_hook",
    "stop_if_lower_hook",
    "stop_if_no_decrease_hook",
    "stop_if_no_increase_hook",
]


def __getattr__(name: str) -> Any:
    instead = gone_estimator(f"experimental.{name}")
    if instead is not None:
        raise UserError(f"tf.estimator.experimental.{name} does not exist in tfbig; {instead}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_stop_at_checkpoint_step_hook(
    estimator: Any, last_step: int, wait_after_file_check_secs: int = 30
) -> StopAtStepHook:
    """Returns a hook that ends training at a global step.

    In tf.estimator each worker looked for the step in the checkpoints. Here all tasks count the
    same steps.

    Args:
        estimator: the Estimator that is trained.
        last_step: the global step.
        wait_after_file_check_secs: not needed: no file is looked at.
    """
    del estimator, wait_after_file_check_secs
    return StopAtStepHook(last_step=last_step)


def dnn_logit_fn_builder(
    units: int,
    hidden_units: Sequence[int],
    feature_columns: Sequence[Any],
    activation_fn: Callable | None,
    dropout: float | None,
    input_layer_partitioner: Any,
    batch_norm: bool,
) -> Callable[[Any, str], tf.Tensor]:
    """Returns a function (features, mode) -> logits, [n, units]: the network of DNNEstimator.

    Args:
        units: the size of the logits.
        hidden_units, feature_columns, activation_fn, dropout, batch_norm: as for DNNEstimator.
        input_layer_partitioner: must be None.

    Raises:
        UserError: an argument has an invalid value.
    """
    _check_units(units)
    if input_layer_partitioner is not None:
        raise UserError("dnn_logit_fn_builder: leave input_layer_partitioner out, pass None.")

    def logit_fn(features: Any, mode: str) -> tf.Tensor:
        return dnn_logits(
            features, mode, units, hidden_units, feature_columns, activation_fn, dropout, batch_norm
        )

    return logit_fn


def linear_logit_fn_builder(
    units: int, feature_columns: Sequence[Any], sparse_combiner: str = "sum"
) -> Callable[[Any], tf.Tensor]:
    """Returns a function (features) -> logits, [n, units]: the model of LinearEstimator.

    Args:
        units: the size of the logits.
        feature_columns, sparse_combiner: as for LinearEstimator.

    Raises:
        UserError: units is no integer.
    """
    _check_units(units)
    return lambda features: linear_logits(features, units, feature_columns, sparse_combiner)


def call_logit_fn(
    logit_fn: Callable, features: Any, mode: str, params: Any = None, config: Any = None
) -> Any:
    """Calls a function of features with those of mode, params and config that it takes.

    Args:
        logit_fn: returns logits, or a dict of logits by head.
        features, mode, params, config: its arguments, as those of a model_fn.

    Raises:
        UserError: it does not take features, or returns something else.
    """
    takes = inspect.signature(logit_fn).parameters
    if "features" not in takes:
        raise UserError("logit_fn must include features argument.")
    given = {"mode": mode, "params": params, "config": config}
    logits = logit_fn(features=features, **{k: v for k, v in given.items() if k in takes})
    values = logits.values() if isinstance(logits, dict) else [logits]
    if not all(isinstance(value, tf.Tensor) for value in values):
        raise UserError(f"logit_fn should return a Tensor or a dict of Tensors, not {logits!r}.")
    return logits


def _check_units(units: Any) -> None:
    if not isinstance(units, int):
        raise UserError(f"units must be an int. Given type: {type(units).__name__}.")
