"""The interface of a head, and what all heads have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.heads.inputs import check_loss_fn, checked_logits, own_losses, weights_of
from tfbig.estimator.heads.reduction import Reduction, checked_reduction, denominator, reduced
from tfbig.programs.model_fn.export_output import ExportOutput, PredictOutput
from tfbig.programs.model_fn.spec import EstimatorSpec, ModeKeys

DEFAULT = "serving_default"


class Head:
    """From logits to the loss, the predictions and the metrics of an EstimatorSpec.

    Canned estimators use a head, and so may a model_fn:

        def model_fn(features, labels, mode):
            logits = keras.layers.Dense(3)(features["x"])
            return tfbig.estimator.MultiClassHead(3).create_estimator_spec(
                features, mode, logits, labels, optimizer=keras.optimizers.Adam())

    A subclass defines `logits_dimension`, `loss`, `predictions`, `metrics` and `update_metrics`.
    """

    # The predictions that TRAIN mode computes; None for all. XLA cannot compile strings.
    training_keys: Sequence[str] | None = None

    @property
    def name(self) -> str | None:
        """The suffix of the names of metrics; None for none."""
        return None

    @property
    def logits_dimension(self) -> int:
        """The size of the last dimension of the logits."""
        raise NotImplementedError

    @property
    def loss_reduction(self) -> Any:
        """How the losses of the examples become the loss of a batch."""
        return Reduction.BATCH_SIZE

    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> tf.Tensor:
        """Computes the loss of a batch.

        Args:
            labels: of the batch.
            logits: [n, …, logits_dimension].
            features: dict of tensors, for a weight_column.
            mode: a ModeKeys value.
            regularization_losses: scalars to add.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[Any, tf.Tensor]:
        """Computes the predictions.

        Args:
            logits: [n, …, logits_dimension].
            keys: the names of those that are needed; None for all.
        """
        raise NotImplementedError

    def training_predictions(self, logits: Any) -> dict[Any, tf.Tensor]:
        """Computes the predictions for the EstimatorSpec of TRAIN mode: `training_keys`."""
        return self.predictions(logits, self.training_keys)

    def metrics(self, regularization_losses: Sequence[Any] | None = None) -> dict[str, Any]:
        """Creates the Keras metrics, by name."""
        raise NotImplementedError

    def update_metrics(
        self,
        eval_metrics: dict[str, Any],
        features: Any,
        logits: Any,
        labels: Any,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> dict[str, Any]:
        """Updates the metrics with a batch, and returns them.

        Args:
            eval_metrics: from `metrics`.
            features, logits, labels, mode, regularization_losses: as for `loss`.
        """
        raise NotImplementedError

    def loss_denominator(self, labels: Any, logits: Any, features: Any) -> Any:
        """What the loss of a batch was divided by, for EstimatorSpec(loss_denominator=)."""
        return 1 if checked_reduction(self.loss_reduction) is Reduction.SUM else None

    def export_outputs(self, predictions: dict[Any, tf.Tensor]) -> dict[str, ExportOutput]:
        """The signatures of an export."""
        output = PredictOutput(predictions)
        return {DEFAULT: output, "predict": output}

    def create_estimator_spec(
        self,
        features: Any,
        mode: str,
        logits: Any,
        labels: Any = None,
        optimizer: Any = None,
        trainable_variables: Sequence[Any] | None = None,
        train_op_fn: Callable | None = None,
        update_ops: Sequence[Any] | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> EstimatorSpec:
        """Returns the EstimatorSpec of a model_fn.

        Args:
            features: dict of tensors.
            mode: a ModeKeys value.
            logits: [n, …, logits_dimension].
            labels: needed in TRAIN and EVAL mode.
            optimizer: a Keras optimizer, or one of tf.compat.v1.train.
            trainable_variables: all variables that train. To leave some out, set `trainable` of
                their layer to False.
            train_op_fn: from the loss to a train_op; in the place of optimizer.
            update_ops: operations to run with train_op_fn or an optimizer of tf.compat.v1.train.
            regularization_losses: scalars to add to the loss.

        Raises:
            UserError: an argument is missing or has an invalid value.
        """
        training = mode == ModeKeys.TRAIN
        predictions = self.training_predictions(logits) if training else self.predictions(logits)
        if mode == ModeKeys.PREDICT:
            outputs = self.export_outputs(predictions)
            return EstimatorSpec(mode, predictions=predictions, export_outputs=outputs)
        more = regularization_losses
        loss = self.loss(labels, logits, features, mode, regularization_losses=more)
        fields = {
            "loss": loss,
            "predictions": predictions,
            "loss_denominator": self.loss_denominator(labels, logits, features),
        }
        if mode == ModeKeys.EVAL:
            metrics = self.update_metrics(
                self.metrics(more), features, logits, labels, mode, regularization_losses=more
            )
            return EstimatorSpec(mode, eval_metric_ops=metrics, **fields)
        tf.compat.v1.summary.scalar(summary_key("loss", self.name), loss)
        updates = training_fields(loss, optimizer, trainable_variables, train_op_fn, update_ops)
        return EstimatorSpec(mode, **fields, **updates)


class WeightedHead(Head):
    """A head with one loss for each example, a weight_column and a name.

    Args:
        weight_column: the name of a feature with the weights, or a numeric_column; or None.
        loss_reduction: of tf.losses.Reduction.
        loss_fn: loss_fn(labels, logits[, features]), which replaces the head's own loss; or None.
        name: the suffix of the names of metrics; or None.
    """

    def __init__(self, weight_column: Any, loss_reduction: Any, loss_fn: Any, name: str | None):
        check_loss_fn(loss_fn)
        self._weight_column, self._name = weight_column, name
        self._reduction = checked_reduction(loss_reduction)
        self._loss_fn = loss_fn

    @property
    @override
    def name(self) -> str | None:
        return self._name

    @property
    @override
    def loss_reduction(self) -> Any:
        return self._reduction

    # The number of losses of an example.
    losses_dimension = 1
    # Whether weights may be given for each of them.
    weighs_each = False

    def processed_labels(self, labels: Any, logits: tf.Tensor) -> tf.Tensor:
        """Returns the labels as numbers, checked."""
        raise NotImplementedError

    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the losses of the examples, [n, …, losses_dimension], from processed labels."""
        raise NotImplementedError

    def losses_and_weights(
        self, labels: Any, logits: tf.Tensor, features: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """Returns the processed labels, the losses of the examples and their weights."""
        labels = self.processed_labels(labels, logits)
        if self._loss_fn is None:
            losses = self.example_losses(labels, logits)
        else:
            losses = own_losses(self._loss_fn, labels, logits, features, self.losses_dimension)
        weights = weights_of(features, self._weight_column, logits, each=self.weighs_each)
        return labels, losses, weights

    @override
    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> tf.Tensor:
        _, losses, weights = self.losses_and_weights(labels, self.checked(logits), features)
        loss = reduced(losses, weights, self._reduction)
        return tf.add_n([loss, *(regularization_losses or ())])

    @override
    def loss_denominator(self, labels: Any, logits: Any, features: Any) -> Any:
        _, losses, weights = self.losses_and_weights(labels, self.checked(logits), features)
        return denominator(losses, weights, self._reduction)

    @override
    def update_metrics(
        self,
        eval_metrics: dict[str, Any],
        features: Any,
        logits: Any,
        labels: Any,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> dict[str, Any]:
        logits = self.checked(logits)
        labels, losses, weights = self.losses_and_weights(labels, logits, features)
        update_mean(eval_metrics[self.key("average_loss")], losses, weights)
        self.update_own_metrics(eval_metrics, labels, logits, weights)
        if regularization_losses:
            total = tf.add_n(list(regularization_losses))
            eval_metrics[self.key("regularization_loss")].update_state(total)
        return eval_metrics

    def update_own_metrics(
        self, metrics: dict[str, Any], labels: tf.Tensor, logits: tf.Tensor, weights: Any
    ) -> None:
        """Updates the metrics of this kind of head: all but the two losses.

        Args:
            metrics: from `metrics`.
            labels: processed.
            logits: checked.
            weights: of the examples; None: all are 1.
        """
        raise NotImplementedError

    def checked(self, logits: Any) -> tf.Tensor:
        """Returns the logits as float32 [n, …, logits_dimension], checked."""
        return checked_logits(logits, self.logits_dimension)

    def key(self, name: str) -> str:
        """The name of a metric, with the name of this head."""
        return summary_key(name, self._name)

    def mean_metrics(
        self, names: Sequence[str], regularization_losses: Sequence[Any] | None
    ) -> dict[str, Any]:
        """Creates average_loss, means by name, and that of the regularization if there is any."""
        more = ["regularization_loss"] if regularization_losses else []
        all_names = ("average_loss", *names, *more)
        return {self.key(name): keras.metrics.Mean(name=name) for name in all_names}


class AccuracyBaseline(keras.metrics.Mean):
    """The accuracy of always predicting the more frequent of two labels, from their mean."""

    def result(self) -> Any:
        """max(mean, 1 - mean)."""
        mean = super().result()
        return keras.ops.maximum(mean, 1 - mean)


def update_mean(metric: keras.metrics.Metric, values: tf.Tensor, weights: Any) -> None:
    """Updates a mean with all values; weights of shape [n, …, 1] count for each value of a row."""
    if weights is not None:
        weights = tf.reshape(tf.broadcast_to(weights, tf.shape(values)), [-1])
    metric.update_state(tf.reshape(tf.cast(values, tf.float32), [-1]), sample_weight=weights)


def update_compared(metric: keras.metrics.Metric, labels: Any, found: Any, weights: Any) -> None:
    """Updates a metric that compares labels with predictions of the same shape."""
    if weights is not None:
        weights = tf.reshape(tf.broadcast_to(weights, tf.shape(found)), [-1])
    metric.update_state(tf.reshape(labels, [-1]), tf.reshape(found, [-1]), sample_weight=weights)


def signatures(
    name: str, output: ExportOutput, predictions: dict[Any, tf.Tensor]
) -> dict[str, ExportOutput]:
    """The signatures of an export: `output` by default and by its name, and "predict"."""
    return {DEFAULT: output, name: output, "predict": PredictOutput(predictions)}


def summary_key(name: str, head: str | None) -> str:
    """The name of a metric of a head: name, or name/head."""
    return f"{name}/{head}" if head else name


def training_fields(
    loss: tf.Tensor,
    optimizer: Any,
    trainable_variables: Sequence[Any] | None,
    train_op_fn: Callable | None,
    update_ops: Sequence[Any] | None,
) -> Mapping[str, Any]:
    """Returns the train_op or the optimizer of an EstimatorSpec.

    Raises:
        UserError: none or two are given, or one is of the wrong kind.
    """
    if optimizer is not None and train_op_fn is not None:
        raise UserError("train_op_fn and optimizer cannot both be set; pass one of them.")
    if optimizer is None and train_op_fn is None:
        raise UserError("train_op_fn and optimizer cannot both be None; pass optimizer=.")
    if update_ops is not None and not isinstance(update_ops, (list, tuple)):
        kind = type(update_ops).__name__
        raise UserError(f"update_ops should be a list or a tuple. Given type: {kind}.")
    _check_all_train(trainable_variables)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return {"optimizer": optimizer}  # the updates of layers run with the forward pass
    if isinstance(optimizer, tf.compat.v1.train.Optimizer):
        step = tf.compat.v1.train.get_or_create_global_step()
        train_op_fn = lambda loss: optimizer.minimize(loss, global_step=step)  # noqa: E731
    if train_op_fn is None:
        raise UserError(
            f"optimizer={optimizer!r}: expected an optimizer of keras.optimizers or "
            "tf.compat.v1.train."
        )
    keys = tf.compat.v1.GraphKeys
    updates = [*(update_ops or ()), *tf.compat.v1.get_collection(keys.UPDATE_OPS)]
    with tf.control_dependencies(updates):
        train_op = train_op_fn(loss)
    return {"train_op": tf.group(train_op, *updates) if updates else train_op}


def _check_all_train(given: Sequence[Any] | None) -> None:
    if given is None:
        return
    if not isinstance(given, (list, tuple)):
        kind = type(given).__name__
        raise UserError(f"trainable_variables should be a list or a tuple. Given type: {kind}.")
    ids = {id(getattr(variable, "value", variable)) for variable in given}
    ids |= {id(variable) for variable in given}
    left = [v.name for v in tf.compat.v1.trainable_variables() if id(v) not in ids]
    if left:
        raise UserError(
            f"trainable_variables leaves out {left[0]!r}, which would train too; set "
            "trainable=False of its layer, or pass train_op_fn=lambda loss: optimizer.minimize("
            "loss, step, var_list=…)."
        )
