"""Heads of classifiers with one label for each example."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.heads.head import (
    AccuracyBaseline,
    WeightedHead,
    signatures,
    update_compared,
    update_mean,
)
from tfbig.estimator.heads.inputs import (
    check_thresholds,
    check_vocabulary,
    labels_below,
    looked_up,
    or_nan,
    shaped_labels,
)
from tfbig.estimator.quiet import quiet_deprecations
from tfbig.programs.model_fn.export_output import (
    ClassificationOutput,
    ExportOutput,
    RegressionOutput,
)


class ClassHead(WeightedHead):
    """What the heads for two and for more classes have in common.

    Args:
        classes: the number of classes.
        vocabulary: the names of the labels, in the order of their numbers; or None.
        weight_column, loss_reduction, loss_fn, name: as for WeightedHead.
    """

    def __init__(
        self,
        classes: int,
        vocabulary: Sequence[str] | None,
        weight_column: Any,
        loss_reduction: Any,
        loss_fn: Any,
        name: str | None,
    ):
        super().__init__(weight_column, loss_reduction, loss_fn, name)
        self._classes = classes
        self._vocabulary = check_vocabulary(vocabulary, classes)

    def class_logits(self, logits: tf.Tensor) -> tf.Tensor:
        """One logit for each class, [n, …, classes]."""
        raise NotImplementedError

    def class_ids(self, logits: tf.Tensor) -> tf.Tensor:
        """The number of the most likely class, [n, …, 1]."""
        return tf.argmax(self.class_logits(logits), -1)[..., tf.newaxis]

    training_keys: Sequence[str] | None = ("logits", "probabilities", "class_ids")

    def _makers(self, logits: tf.Tensor) -> dict[str, Callable[[], tf.Tensor]]:
        """Functions that compute the predictions, by name."""
        names = class_names(self._vocabulary, self._classes)
        return {
            "logits": lambda: logits,
            "probabilities": lambda: tf.nn.softmax(self.class_logits(logits), name="probabilities"),
            "class_ids": lambda: self.class_ids(logits),
            "classes": lambda: tf.gather(tf.constant(names), self.class_ids(logits)),
            "all_class_ids": lambda: for_each(tf.range(self._classes), logits),
            "all_classes": lambda: for_each(tf.constant(names), logits),
        }

    @override
    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[Any, tf.Tensor]:
        return selected(self._makers(self.checked(logits)), keys)

    @override
    def export_outputs(self, predictions: dict[Any, tf.Tensor]) -> dict[str, ExportOutput]:
        classes = ClassificationOutput(predictions["probabilities"], predictions["all_classes"])
        return signatures("classification", classes, predictions)


class BinaryClassHead(ClassHead):
    """The head of a classifier with two classes: sigmoid cross-entropy of one logit.

    Example: `tfbig.estimator.DNNEstimator(BinaryClassHead(thresholds=[0.9]), [8], columns)`

    Args:
        weight_column: the name of a feature with the examples' weights, or a numeric_column; or
            None.
        thresholds: probabilities in (0, 1) at which accuracy, precision and recall are computed
            too.
        label_vocabulary: the two labels, if labels are strings; or None for labels 0 and 1.
        loss_reduction: of tf.losses.Reduction; the default is the mean over the batch.
        loss_fn: loss_fn(labels, logits[, features]) -> [n, 1]; or None.
        name: the suffix of the names of metrics; or None.

    Raises:
        UserError: an argument has an invalid value.
    """

    _tf1 = False

    def __init__(
        self,
        weight_column: Any = None,
        thresholds: Sequence[float] | None = None,
        label_vocabulary: Sequence[str] | None = None,
        loss_reduction: Any = "sum_over_batch_size",
        loss_fn: Any = None,
        name: str | None = None,
    ):
        super().__init__(2, label_vocabulary, weight_column, loss_reduction, loss_fn, name)
        self._thresholds = check_thresholds(thresholds)

    @property
    @override
    def logits_dimension(self) -> int:
        return 1

    @override
    def processed_labels(self, labels: Any, logits: tf.Tensor) -> tf.Tensor:
        labels = looked_up(shaped_labels(labels, logits, 1), self._vocabulary)
        return labels_below(tf.cast(labels, tf.float32), 2)

    @override
    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        return or_nan(losses, labels, 2)

    @override
    def class_logits(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.zeros_like(logits), logits], -1)

    training_keys: Sequence[str] | None = ("logits", "logistic", "probabilities", "class_ids")

    @override
    def _makers(self, logits: tf.Tensor) -> dict[str, Callable[[], tf.Tensor]]:
        logistic = lambda: tf.sigmoid(logits, name="logistic")  # noqa: E731
        first = {"logits": lambda: logits, "logistic": logistic}
        return first | super()._makers(logits)

    @override
    def export_outputs(self, predictions: dict[Any, tf.Tensor]) -> dict[str, ExportOutput]:
        regression = RegressionOutput(predictions["logistic"])
        return {**super().export_outputs(predictions), "regression": regression}

    @override
    def metrics(self, regularization_losses: Sequence[Any] | None = None) -> dict[str, Any]:
        metrics = self.mean_metrics(("prediction/mean", "label/mean"), regularization_losses)
        metrics |= {
            self.key("accuracy"): keras.metrics.Accuracy(),
            self.key("precision"): keras.metrics.Precision(),
            self.key("recall"): keras.metrics.Recall(),
            self.key("accuracy_baseline"): AccuracyBaseline(name="accuracy_baseline"),
        }
        if not self._tf1:
            metrics[self.key("auc")] = keras.metrics.AUC()
            metrics[self.key("auc_precision_recall")] = keras.metrics.AUC(curve="PR")
        return metrics | threshold_metrics(self._thresholds, self.key)

    @override
    def update_own_metrics(
        self, metrics: dict[str, Any], labels: tf.Tensor, logits: tf.Tensor, weights: Any
    ) -> None:
        ids, logistic, key = self.class_ids(logits), tf.sigmoid(logits), self.key
        update_mean(metrics[key("prediction/mean")], logistic, weights)
        for name in ("label/mean", "accuracy_baseline"):
            update_mean(metrics[key(name)], labels, weights)
        for name in ("accuracy", "precision", "recall"):
            update_compared(metrics[key(name)], labels, ids, weights)
        for name in threshold_names(self._thresholds):
            update_compared(metrics[key(name)], labels, logistic, weights)
        self._update_curves(metrics, labels, logistic, weights)

    def _update_curves(self, metrics: dict, labels: Any, logistic: Any, weights: Any) -> None:
        for name in ("auc", "auc_precision_recall"):
            update_compared(metrics[self.key(name)], labels, logistic, weights)


class TF1BinaryClassHead(BinaryClassHead):
    """The head of tf.compat.v1.estimator: areas under curves are those of tf.compat.v1.metrics."""

    _tf1 = True

    @override
    def _update_curves(self, metrics: dict, labels: Any, logistic: Any, weights: Any) -> None:
        auc = tf.compat.v1.metrics.auc
        with quiet_deprecations():
            metrics[self.key("auc")] = auc(labels, logistic, weights)
            metrics[self.key("auc_precision_recall")] = auc(labels, logistic, weights, curve="PR")


class MultiClassHead(ClassHead):
    """The head of a classifier with more than two classes: softmax cross-entropy.

    Example: `tfbig.estimator.DNNEstimator(MultiClassHead(n_classes=3), [8], columns)`

    Args:
        n_classes: the number of classes, above 2.
        weight_column: the name of a feature with the examples' weights, or a numeric_column; or
            None.
        label_vocabulary: the labels, if labels are strings; or None for 0, 1, …, n_classes - 1.
        loss_reduction: of tf.losses.Reduction; the default is the mean over the batch.
        loss_fn: loss_fn(labels, logits[, features]) -> [n, 1]; or None.
        name: the suffix of the names of metrics; or None.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        n_classes: int,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        loss_reduction: Any = "sum_over_batch_size",
        loss_fn: Any = None,
        name: str | None = None,
    ):
        if not isinstance(n_classes, int) or n_classes <= 2:
            raise UserError(
                f"n_classes must be > 2: {n_classes!r}. For two classes, use BinaryClassHead."
            )
        super().__init__(n_classes, label_vocabulary, weight_column, loss_reduction, loss_fn, name)

    @property
    @override
    def logits_dimension(self) -> int:
        return self._classes

    @override
    def processed_labels(self, labels: Any, logits: tf.Tensor) -> tf.Tensor:
        labels = looked_up(shaped_labels(labels, logits, 1), self._vocabulary)
        if not labels.dtype.is_integer:
            raise UserError(f"Labels dtype should be integer. Instead got {labels.dtype.name}.")
        return labels_below(labels, self._classes)

    @override
    def example_losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        ids = tf.squeeze(labels, -1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)
        return or_nan(losses[..., tf.newaxis], labels, self._classes)

    @override
    def class_logits(self, logits: tf.Tensor) -> tf.Tensor:
        return logits

    @override
    def metrics(self, regularization_losses: Sequence[Any] | None = None) -> dict[str, Any]:
        metrics = self.mean_metrics((), regularization_losses)
        return metrics | {self.key("accuracy"): keras.metrics.Accuracy()}

    @override
    def update_own_metrics(
        self, metrics: dict[str, Any], labels: tf.Tensor, logits: tf.Tensor, weights: Any
    ) -> None:
        ids = self.class_ids(logits)
        update_compared(metrics[self.key("accuracy")], labels, ids, weights)


_AT_THRESHOLD = {
    "accuracy": lambda at: keras.metrics.BinaryAccuracy(threshold=at),
    "precision": lambda at: keras.metrics.Precision(thresholds=at),
    "recall": lambda at: keras.metrics.Recall(thresholds=at),
}


def threshold_names(thresholds: Sequence[float]) -> list[str]:
    """The names of the metrics at some thresholds, such as "recall/positive_threshold_0.5"."""
    return [f"{kind}/positive_threshold_{at:g}" for at in thresholds for kind in _AT_THRESHOLD]


def threshold_metrics(thresholds: Sequence[float], key: Callable[[str], str]) -> dict[str, Any]:
    """Creates accuracy, precision and recall at some thresholds, by name.

    Args:
        thresholds: probabilities.
        key: from a name to that of a head.
    """
    made = [make(at) for at in thresholds for make in _AT_THRESHOLD.values()]
    return dict(zip(map(key, threshold_names(thresholds)), made, strict=True))


def class_names(vocabulary: Sequence[str] | None, classes: int) -> list[str]:
    """The names of the classes: the vocabulary, or "0", "1", …."""
    return list(vocabulary or map(str, range(classes)))


def for_each(row: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The same row [d] for each example of the logits: [n, d]."""
    return tf.tile(row[tf.newaxis], [tf.shape(logits)[0], 1])


def selected(
    makers: dict[str, Callable[[], tf.Tensor]], keys: Sequence[str] | None
) -> dict[Any, tf.Tensor]:
    """Computes the predictions of these names; all of them for None.

    Args:
        makers: functions that compute them, by name.
        keys: names.

    Raises:
        UserError: there is no prediction of a name.
    """
    for key in keys or ():
        if key not in makers:
            raise UserError(f"Prediction key must be one of {list(makers)}; given: {key!r}.")
    return {key: makers[key]() for key in keys or makers}
