"""What an estimator-style model_fn is told and what it returns."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfbig.errors import NotBuiltError, UserError


class ModeKeys:
    """The mode a model_fn is called in, with tf.estimator's values."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


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

    Args:
        mode: the mode that model_fn was called with.
        predictions: tensor or dict of tensors of shape [n, …].
        loss: a scalar, taken as the mean over the examples of the batch it was computed on, or
            a tensor of shape [n, …] whose mean is the loss.
        eval_metric_ops: dict of Keras metrics, already updated with this batch.
        optimizer: a Keras optimizer; the loop computes and applies the gradients.
        train_op, export_outputs, training_hooks: TF1's; not built yet.

    Raises:
        UserError: the mode is unknown, or what the mode needs is missing.
    """

    mode: str
    predictions: Any = None
    loss: Any = None
    train_op: Any = None
    eval_metric_ops: Mapping[str, Any] | None = None
    export_outputs: Any = None
    training_hooks: Sequence | None = None
    optimizer: Any = None

    def __post_init__(self):
        if self.mode not in (ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT):
            raise UserError(
                f"EstimatorSpec(mode={self.mode!r}): expected ModeKeys.TRAIN, EVAL or PREDICT; "
                "pass the mode that model_fn was given."
            )
        for name, instead in (
            ("train_op", "pass optimizer=<a Keras optimizer> and the loop applies the gradients"),
            ("training_hooks", "pass callbacks= to train_distributed"),
            ("export_outputs", "pass predictions="),
        ):
            if getattr(self, name):
                raise NotBuiltError(f"EstimatorSpec({name}=…) is not built yet; {instead}.")
        if self.mode != ModeKeys.PREDICT and self.loss is None:
            raise UserError(
                f"EstimatorSpec for mode {self.mode!r} has no loss; pass loss=<scalar or [n]>."
            )
        if self.mode == ModeKeys.TRAIN and self.optimizer is None:
            raise UserError(
                "EstimatorSpec for mode 'train' has no optimizer; pass "
                "optimizer=keras.optimizers.Adam(…) or another Keras optimizer."
            )
