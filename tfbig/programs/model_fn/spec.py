"""What an estimator-style model_fn is told and what it returns."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.programs.model_fn.mode_keys import ModeKeys
from tfbig.programs.model_fn.spec_checks import check_spec

__all__ = ["EstimatorSpec", "ModeKeys", "keras_metrics"]


@dataclasses.dataclass(frozen=True)
class EstimatorSpec:
    """What a model_fn returns: the model's outputs in one mode.

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
        loss: a scalar, taken as the mean over the examples of the batch it was computed on, or,
            with optimizer=, a tensor of shape [n, …] whose mean is the loss.
        train_op: what updates the variables from the gradients of tf.compat.v1.train optimizers
            or tf.gradients. They are the gradients of the whole global batch: whatever is done to
            them between compute_gradients and apply_gradients is done once, after aggregation.
        eval_metric_ops: dict of (value, update_op) of tf.compat.v1.metrics, or of Keras metrics
            that have been updated with this batch.
        export_outputs: dict of tfbig.estimator.export outputs, one for each signature.
        training_chief_hooks, training_hooks, evaluation_hooks, prediction_hooks: SessionRunHooks.
        scaffold: a tf.compat.v1.train.Scaffold.
        optimizer: a Keras optimizer; the loop computes and applies the gradients.

    Raises:
        UserError: the mode is unknown, what the mode needs is missing, or a field is not of its
            kind.
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

    def __post_init__(self) -> None:
        check_spec(self)

    def as_tensors(self) -> "EstimatorSpec":
        """The same with tensors for whatever may be one; called in the graph they belong to."""
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
