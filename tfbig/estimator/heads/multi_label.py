"""The head of a classifier with any number of labels for each example."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.heads.classification import (
    class_names,
    for_each,
    selected,
    threshold_metrics,
    threshold_names,
)
from tfbig.estimator.heads.head import WeightedHead, signatures, update_compared, update_mean
from tfbig.estimator.heads.inputs import (
    check_thresholds,
    check_vocabulary,
    labels_below,
    looked_up,
    or_nan,
    shaped_labels,
)
from tfbig.programs.model_fn.export_output import ClassificationOutput, ExportOutput


class MultiLabelHead(WeightedHead):
    """The head of a classifier whose classes do not exclude each other.

    The loss of an example is the mean of the sigmoid cross-entropies of its classes.

    Example: `tfbig.estimator.DNNEstimator(MultiLabelHead(n_classes=5), [8], columns)`

    Args:
        n_classes: the number of classes, at least 2.
        weight_column: the name of a feature with the examples' weights, or a numeric_column; or
            None.
        thresholds: probabilities in (0, 1) at which accuracy, precision and recall are computed.
        label_vocabulary: the labels, if labels are a SparseTensor of strings; or None.
        loss_reduction: of tf.losses.Reduction; the default is the mean over the batch.
        loss_fn: loss_fn(labels, logits[, features]) -> [n, 1]; or None.
        classes_for_class_based_metrics: numbers or names of classes with metrics of their own; or
            None.
        name: the suffix of the names of metrics; or None.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        n_classes: int,
        weight_column: Any = None,
        thresholds: Sequence[float] | None = None,
        label_vocabulary: Sequence[str] | None = None,
        loss_reduction: Any = "sum_over_batch_size",
        loss_fn: Any = None,
        classes_for_class_based_metrics: Sequence[Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(weight_column, loss_reduction, loss_fn, name)
        if not isinstance(n_classes, int) or n_classes < 2:
            raise UserError(f"n_classes must be > 1 for multi-label classification: {n_classes!r}.")
        self._classes = n_classes
        self._thresholds = check_thresholds(thresholds)
        self._vocabulary = check_vocabulary(label_vocabulary, n_classes)
        self._own = [self._number(each) for each in classes_for_class_based_metrics or ()]

    def _number(self, wanted: Any) -> int:
        known = list(self._vocabulary or range(self._classes))
        if isinstance(wanted, int) and 0 <= wanted < self._classes:
            return wanted
        if wanted in known:
            return known.index(wanted)
        raise UserError(f"classes_for_class_based_metrics has {wanted!r}; the classes are {known}.")

    training_keys: Sequence[str] | None = ("logits", "probabilities")

    @property
    @override
    def logits_dimension(self) -> int:
        return self._classes

    @override
    def processed_labels(self, labels: Any, logits: tf.Tensor) -> tf.Tensor:
        if isinstance(labels, tf.SparseTensor):
            ids = looked_up(labels.values, self._vocabulary)
            ids = labels_below(tf.cast(ids, tf.int64), self._classes)
            ids = tf.SparseTensor(labels.indices, ids, labels.dense_shape)
            labels = tf.cast(tf.sparse.to_indicator(ids, self._classes), tf.int64)
        labels = shaped_labels(labels, logits, self._classes)
        return labels_below(
            labels, 2, "labels must be an integer indicator Tensor with values in [0, 1]"
        )

    @override
    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        numbers = tf.cast(labels, logits.dtype)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=numbers, logits=logits)
        return or_nan(tf.reduce_mean(losses, -1, keepdims=True), numbers, 2)

    @override
    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[Any, tf.Tensor]:
        logits = self.checked(logits)
        names = class_names(self._vocabulary, self._classes)
        found = {
            "logits": lambda: logits,
            "probabilities": lambda: tf.sigmoid(logits, name="probabilities"),
            "classes": lambda: for_each(tf.constant(names), logits),
        }
        return selected(found, keys)

    @override
    def export_outputs(self, predictions: dict[Any, tf.Tensor]) -> dict[str, ExportOutput]:
        classes = ClassificationOutput(predictions["probabilities"], predictions["classes"])
        return signatures("classification", classes, predictions)

    def _class_keys(self, number: int) -> tuple[str, str, str]:
        name = self._vocabulary[number] if self._vocabulary else f"class{number}"
        return (
            self.key(f"probability_mean/{name}"),
            self.key(f"auc/{name}"),
            self.key(f"auc_precision_recall/{name}"),
        )

    @override
    def metrics(self, regularization_losses: Sequence[Any] | None = None) -> dict[str, Any]:
        metrics = self.mean_metrics((), regularization_losses)
        metrics[self.key("auc")] = keras.metrics.AUC()
        metrics[self.key("auc_precision_recall")] = keras.metrics.AUC(curve="PR")
        metrics |= threshold_metrics(self._thresholds, self.key)
        for number in self._own:
            mean, auc, precision = self._class_keys(number)
            metrics[mean] = keras.metrics.Mean()
            metrics[auc] = keras.metrics.AUC()
            metrics[precision] = keras.metrics.AUC(curve="PR")
        return metrics

    @override
    def update_own_metrics(
        self, metrics: dict[str, Any], labels: tf.Tensor, logits: tf.Tensor, weights: Any
    ) -> None:
        found = tf.sigmoid(logits)
        for name in ("auc", "auc_precision_recall", *threshold_names(self._thresholds)):
            update_compared(metrics[self.key(name)], labels, found, weights)
        for number in self._own:
            mean, *curves = self._class_keys(number)
            of_class, true = found[..., number, tf.newaxis], labels[..., number, tf.newaxis]
            update_mean(metrics[mean], of_class, weights)
            for name in curves:
                update_compared(metrics[name], true, of_class, weights)
