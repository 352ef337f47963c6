"""The argument `mode` and the result of an estimator-style model_fn, with their checks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.model_fn.export_output import ExportOutput


class ModeKeys:
    """The mode a model_fn is called in, with tf.estimator's values."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


__all__ = ["EstimatorSpec", "ModeKeys", "keras_metrics"]


@dataclasses.dataclass(frozen=True)
class EstimatorSpec:
    """The result of a model_fn: the outputs of the model in one mode.

    Example:

        def model_fn(features, labels, mode):
            logits = keras.layers.Dense(10)(features)
            if mode == tfbig.ModeKeys.PREDICT:
                return tfbig.EstimatorSpec(mode, predictions=logits)
            loss = keras.losses.sparse_categorical_crossentropy(
                labels, logits, from_logits=True)          # [n], or its mean
            return tfbig.EstimatorSpec(
                mode, loss=loss, optimizer=keras.optimizers.Adam(1e-3))

    TensorFlow 1 code returns its own train_op, as it did to tf.estimator:

        loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(labels, logits)
        optimizer = tf.compat.v1.train.AdamOptimizer(1e-3)
        step = tf.compat.v1.train.get_global_step()
        return tfbig.EstimatorSpec(
            mode, loss=loss, train_op=optimizer.minimize(loss, global_step=step))

    Args:
        mode: the mode that model_fn was called with.
        predictions: tensor or dict of tensors of shape [n, …].
        loss: a scalar, which is treated as the mean over the examples of its batch, or, with
            optimizer=, a tensor of shape [n, …] whose mean is the loss.
        train_op: updates the variables from the gradients of tf.compat.v1.train optimizers or
            tf.gradients. They are the gradients of the whole global batch: operations between
            compute_gradients and apply_gradients run once, after aggregation.
        eval_metric_ops: dict of (value, update_op) of tf.compat.v1.metrics, or of Keras metrics
            that have been updated with this batch.
        export_outputs: dict of tfbig.estimator.export outputs, one for each signature.
        training_chief_hooks, training_hooks, evaluation_hooks, prediction_hooks: SessionRunHooks.
        scaffold: a tf.compat.v1.train.Scaffold.
        optimizer: a Keras optimizer. The loop computes and applies the gradients.
        loss_denominator: what a scalar loss was divided by, so that the parts of a global batch
            add up to the loss of the whole: 1 for a sum, or a scalar tensor, such as the sum of
            the examples' weights in this batch. None: the number of examples.

    Raises:
        UserError: the mode is unknown, a field that the mode needs is missing, or a field has the
            wrong type.
    """

    mode: str
    predictions: Any = None
    loss: Any = None
    train_op: Any = None
    eval_metric_ops: Mapping[str, Any] | None = None
    export_outputs: Mapping[str, Any] | None = None
    training_chief_hooks: Sequence | None = None
    training_hooks: Sequence | None = None
    scaffold: Any = None
    evaluation_hooks: Sequence | None = None
    prediction_hooks: Sequence | None = None
    optimizer: Any = None
    loss_denominator: Any = None

    @property
    def is_summed(self) -> bool:
        """Whether the loss is a sum over the batch."""
        return isinstance(self.loss_denominator, int)

    def __post_init__(self) -> None:
        check_spec(self)
        for field in _HOOKS:  # code that wraps a model_fn adds to these
            object.__setattr__(self, field, tuple(getattr(self, field) or ()))
        if self.eval_metric_ops is None:
            object.__setattr__(self, "eval_metric_ops", {})
        if self.scaffold is None:
            object.__setattr__(self, "scaffold", tf.compat.v1.train.Scaffold())
        outputs = self.export_outputs
        if outputs and len(outputs) == 1 and _DEFAULT not in outputs:
            only = next(iter(outputs.values()))
            object.__setattr__(self, "export_outputs", {**outputs, _DEFAULT: only})

    def _replace(self, **fields: Any) -> "EstimatorSpec":
        """Returns a copy with new values of some fields, as tf.estimator's namedtuple did.

        Raises:
            UserError: as for the constructor.
        """
        return dataclasses.replace(self, **fields)

    def as_tensors(self) -> "EstimatorSpec":
        """Returns a copy with the loss and the predictions converted to tensors.

        Call it in the graph that they belong to.
        """
        as_tensor = lambda value: None if value is None else tf.convert_to_tensor(value)  # noqa: E731
        return dataclasses.replace(
            self,
            loss=as_tensor(self.loss),
            predictions=tf.nest.map_structure(as_tensor, self.predictions),
        )


def keras_metrics(spec: EstimatorSpec) -> list[keras.metrics.Metric]:
    """The Keras metrics in eval_metric_ops."""
    metrics = (spec.eval_metric_ops or {}).values()
    return [m for m in metrics if isinstance(m, keras.metrics.Metric)]


def check_metric_names(spec: EstimatorSpec) -> None:
    """Refuses metrics with the names of what `evaluate` returns itself.

    Raises:
        UserError: the message names the metric.
    """
    for name in ("loss", "global_step"):
        if name in (spec.eval_metric_ops or {}):
            raise UserError(
                f"Metric with name `{name}` is not allowed in eval_metric_ops, because evaluate "
                "returns that itself; give it another name."
            )


_HOOKS = ("training_chief_hooks", "training_hooks", "evaluation_hooks", "prediction_hooks")
_DEFAULT = "serving_default"


def check_spec(spec: Any) -> None:
    """Checks the fields of an EstimatorSpec.

    Raises:
        UserError: one is missing or has the wrong type.
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
            f"{_kind(spec.optimizer)}; pass one of keras.optimizers, or, with "
            'model_distribution="replicated", train_op=optimizer.minimize(loss, '
            "tf.compat.v1.train.get_global_step())."
        )
    op = getattr(spec.train_op, "op", spec.train_op)
    if spec.train_op is not None and not isinstance(op, tf.Operation):
        raise UserError(
            f"train_op must be an Operation or a Tensor, and is {_kind(spec.train_op)}; pass what "
            "the minimize or apply_gradients of a tf.compat.v1.train optimizer returns."
        )


def _check_loss(spec: Any) -> None:
    divided = spec.loss_denominator
    is_tensor = isinstance(divided, tf.Tensor) and divided.shape.rank in (0, None)
    if not (divided is None or is_tensor or (type(divided) is int and divided == 1)):
        raise UserError(
            f"EstimatorSpec(loss_denominator={divided!r}): expected 1 for a sum, a scalar tensor, "
            "or None."
        )
    shape = getattr(spec.loss, "shape", None)
    if spec.train_op is None or shape is None or spec.mode == ModeKeys.PREDICT:
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
