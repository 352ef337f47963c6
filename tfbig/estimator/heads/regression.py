"""Heads of regressors."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.heads.classification import selected
from tfbig.estimator.heads.head import WeightedHead, signatures, update_mean
from tfbig.estimator.heads.inputs import labels_below, or_nan, shaped_labels
from tfbig.programs.model_fn.export_output import ExportOutput, RegressionOutput


class RegressionHead(WeightedHead):
    """The head of a regressor: the squared error.

    Example: `tfbig.estimator.DNNEstimator(RegressionHead(label_dimension=2), [8], columns)`

    Args:
        label_dimension: the number of labels of an example.
        weight_column: the name of a feature with the examples' weights, or a numeric_column; or
            None.
        loss_reduction: of tf.losses.Reduction; the default is the mean over the batch and the
            labels.
        loss_fn: loss_fn(labels, logits[, features]) -> [n, label_dimension]; or None.
        inverse_link_fn: from the logits to the predictions; None: they are the same.
        name: the suffix of the names of metrics; or None.

    Raises:
        UserError: an argument has an invalid value.
    """

    weighs_each = True

    def __init__(
        self,
        label_dimension: int = 1,
        weight_column: Any = None,
        loss_reduction: Any = "sum_over_batch_size",
        loss_fn: Any = None,
        inverse_link_fn: Callable | None = None,
        name: str | None = None,
    ):
        super().__init__(weight_column, loss_reduction, loss_fn, name)
        if not isinstance(label_dimension, int) or label_dimension < 1:
            raise UserError(f"Invalid label_dimension {label_dimension!r}; expected 1 or more.")
        self.losses_dimension = label_dimension
        self._inverse_link_fn = inverse_link_fn

    @property
    @override
    def logits_dimension(self) -> int:
        return self.losses_dimension

    @override
    def processed_labels(self, labels: Any, logits: tf.Tensor) -> tf.Tensor:
        return tf.cast(shaped_labels(labels, logits, self.losses_dimension), tf.float32)

    @override
    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.math.squared_difference(logits, labels)

    @override
    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[Any, tf.Tensor]:
        logits = self.checked(logits)
        link = self._inverse_link_fn
        if link is None:
            return selected({"predictions": lambda: logits}, keys)
        return selected({"predictions": lambda: link(logits), "logits": lambda: logits}, keys)

    @override
    def export_outputs(self, predictions: dict[Any, tf.Tensor]) -> dict[str, ExportOutput]:
        regression = RegressionOutput(predictions["predictions"])
        return signatures("regression", regression, predictions)

    @override
    def metrics(self, regularization_losses: Sequence[Any] | None = None) -> dict[str, Any]:
        return self.mean_metrics(("prediction/mean", "label/mean"), regularization_losses)

    @override
    def update_own_metrics(
        self, metrics: dict[str, Any], labels: tf.Tensor, logits: tf.Tensor, weights: Any
    ) -> None:
        predictions = self.predictions(logits)["predictions"]
        update_mean(metrics[self.key("prediction/mean")], predictions, weights)
        update_mean(metrics[self.key("label/mean")], labels, weights)


class PoissonRegressionHead(RegressionHead):
    """The head of a regressor of counts: the Poisson loss; predictions are exp(logits).

    Example: `tfbig.estimator.DNNEstimator(PoissonRegressionHead(), [8], columns)`

    Args:
        label_dimension, weight_column, loss_reduction, name: as for RegressionHead.
        compute_full_loss: whether the loss includes the term log(label!), by Stirling's formula
            (tf.nn.log_poisson_loss).

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        label_dimension: int = 1,
        weight_column: Any = None,
        loss_reduction: Any = "sum_over_batch_size",
        compute_full_loss: bool = True,
        name: str | None = None,
    ):
        super().__init__(label_dimension, weight_column, loss_reduction, None, tf.math.exp, name)
        self._full = compute_full_loss

    @override
    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.log_poisson_loss(labels, logits, compute_full_loss=self._full)


class LogisticRegressionHead(RegressionHead):
    """The head of a regressor of a number in [0, 1]: sigmoid cross-entropy.

    Example: `tfbig.estimator.LinearEstimator(LogisticRegressionHead(), columns)`

    Args:
        weight_column, loss_reduction, name: as for RegressionHead.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        weight_column: Any = None,
        loss_reduction: Any = "sum_over_batch_size",
        name: str | None = None,
    ):
        super().__init__(1, weight_column, loss_reduction, None, tf.math.sigmoid, name)

    @override
    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        labels = labels_below(labels, 2, "Labels must be in range [0, 1]")
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        return or_nan(losses, labels, 2)
