"""What an EstimatorSpec must hold, with the errors that users of tf.estimator know."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.model_fn.export_output import ExportOutput
from tfbig.programs.model_fn.mode_keys import ModeKeys

_HOOKS = ("training_chief_hooks", "training_hooks", "evaluation_hooks", "prediction_hooks")
_DEFAULT = "serving_default"


def check_spec(spec: Any) -> None:
    """Checks the fields of an EstimatorSpec.

    Raises:
        UserError: one is missing or not of its kind.
    """
    mode = spec.mode
    if mode not in (ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT):
        raise UserError(
            f"EstimatorSpec(mode={mode!r}): expected ModeKeys.TRAIN, EVAL or PREDICT; "
            "pass the mode that model_fn was given."
        )
    if mode != ModeKeys.PREDICT and spec.loss is None:
        raise UserError(
            f"Missing loss. EstimatorSpec for mode {mode!r} has none; pass loss=<scalar or [n]>."
        )
    if mode == ModeKeys.PREDICT and spec.predictions is None:
        raise UserError(
            "Missing predictions. EstimatorSpec for mode 'infer' has none; pass "
            "predictions=<tensor or dict of tensors>."
        )
    _check_training(spec)
    _check_loss(spec)
    for name, metric in _dict(spec, "eval_metric_ops").items():
        _check_metric(name, metric)
    _check_exports(_dict(spec, "export_outputs"))
    for field in _HOOKS:
        for hook in getattr(spec, field) or ():
            kinds = (tf.compat.v1.train.SessionRunHook, keras.callbacks.Callback)
            if not isinstance(hook, kinds):
                raise UserError(
                    f"All hooks must be SessionRunHook instances; {field} has {_kind(hook)}."
                )
    if spec.scaffold is not None and not isinstance(spec.scaffold, tf.compat.v1.train.Scaffold):
        raise UserError(
            f"scaffold must be a tf.compat.v1.train.Scaffold, and is {_kind(spec.scaffold)}."
        )


def _check_training(spec: Any) -> None:
    if spec.train_op is not None and spec.optimizer is not None:
        raise UserError(
            "EstimatorSpec has a train_op and an optimizer, which would both update; pass one of "
            "them."
        )
    if spec.mode == ModeKeys.TRAIN and spec.train_op is None and spec.optimizer is None:
        raise UserError(
            "Missing train_op. EstimatorSpec for mode 'train' has neither that nor an optimizer; "
            "pass optimizer=keras.optimizers.Adam(…) or another Keras optimizer, or "
            "train_op=<a tf.compat.v1.train optimizer>.minimize(loss, global_step)."
        )
    if isinstance(spec.optimizer, tf.compat.v1.train.Optimizer):
        raise UserError(
            f"EstimatorSpec(optimizer=…) takes a Keras optimizer and was given "
            f"{_kind(spec.optimizer)}; pass train_op=optimizer.minimize(loss, "
            "tf.compat.v1.train.get_global_step())."
        )
    op = getattr(spec.train_op, "op", spec.train_op)
    if spec.train_op is not None and not isinstance(op, tf.Operation):
        raise UserError(
            f"train_op must be an Operation or a Tensor, and is {_kind(spec.train_op)}; pass what "
            "the minimize or apply_gradients of a tf.compat.v1.train optimizer returns."
        )


def _check_loss(spec: Any) -> None:
    shape = getattr(spec.loss, "shape", None)
    if spec.train_op is None or shape is None:
        return
    if tf.TensorShape(shape).num_elements() != 1:
        raise UserError(
            f"Loss must be scalar, given: {spec.loss}. Pass its mean, or optimizer=<a Keras "
            "optimizer> in the place of train_op."
        )


def _check_metric(name: str, metric: Any) -> None:
    if isinstance(metric, keras.metrics.Metric):
        return
    if isinstance(metric, tf.Tensor) or not isinstance(metric, (tuple, list)) or len(metric) != 2:
        raise UserError(
            "Values of eval_metric_ops must be (metric_value, update_op) tuples or Keras metrics, "
            f"given: {_kind(metric)} for key: {name}; pass what a tf.compat.v1.metrics function "
            "returns, or a Keras metric that has been updated with this batch."
        )
    value, update = metric
    for part in tf.nest.flatten(value):
        if not isinstance(part, tf.Tensor):
            raise UserError(
                f"the value of eval_metric_ops[{name!r}] must be a Tensor, and is {_kind(part)}."
            )
    for part in tf.nest.flatten(update):
        if not isinstance(part, (tf.Tensor, tf.Operation, tf.Variable)):
            raise UserError(
                f"the update_op of eval_metric_ops[{name!r}] must be an Operation or a Tensor, "
                f"and is {_kind(part)}."
            )


def _check_exports(outputs: Mapping[str, Any]) -> None:
    for name, output in outputs.items():
        if not isinstance(output, ExportOutput):
            raise UserError(
                f"Values in export_outputs must be ExportOutput objects; {name!r} is "
                f"{_kind(output)}. Pass PredictOutput, ClassificationOutput or RegressionOutput."
            )
    if len(outputs) > 1 and _DEFAULT not in outputs:
        raise UserError(
            f"Multiple export_outputs were provided ({', '.join(sorted(outputs))}), but none of "
            f"them is specified as the default; name one of them {_DEFAULT!r}."
        )


def _dict(spec: Any, field: str) -> Mapping[str, Any]:
    value = getattr(spec, field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{field} must be a dict, given: {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    return "Tensor" if isinstance(value, tf.Tensor) else type(value).__name__
