"""MultiHead: several heads on the logits of one model."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.heads.head import DEFAULT, Head, update_mean
from tfbig.estimator.heads.reduction import Reduction, checked_reduction
from tfbig.programs.model_fn.export_output import ExportOutput, PredictOutput


class MultiHead(Head):
    """Several heads, each with a part of the logits and labels of its own.

    Labels are a dict by the heads' names. The loss is the sum of the heads' losses. Each has a
    metric loss/<name>, unless it is a sum over the batch.

    Example:

        head = MultiHead([RegressionHead(name="age"), BinaryClassHead(name="adult")])
        tfbig.estimator.DNNEstimator(head, [8], columns)   # labels: {"age": …, "adult": …}

    Args:
        heads: with different names.
        head_weights: factors of the heads' losses; None: all are 1.

    Raises:
        UserError: a head has no name, or there are not as many weights as heads.
    """

    def __init__(self, heads: Sequence[Head], head_weights: Sequence[float] | None = None):
        if not heads:
            raise UserError(f"Must specify heads. Given: {heads!r}.")
        if head_weights and len(head_weights) != len(heads):
            raise UserError(
                "heads and head_weights must have the same size. Given len(heads): "
                f"{len(heads)}. Given len(head_weights): {len(head_weights)}."
            )
        names = [head.name for head in heads]
        if None in names or len(set(names)) < len(names):
            raise UserError(
                f"All given heads must have name specified, each another one. Given: {names}."
            )
        self._heads = dict(zip(names, heads, strict=True))
        self._weights = list(head_weights or [1.0] * len(heads))
        if len({checked_reduction(head.loss_reduction) for head in heads}) > 1:
            raise UserError(
                "The loss_reduction must be the same for different heads. Given: "
                f"{[head.loss_reduction for head in heads]}."
            )

    @property
    @override
    def name(self) -> str | None:
        return "_".join(self._heads)

    @property
    @override
    def logits_dimension(self) -> int:
        return sum(head.logits_dimension for head in self._heads.values())

    @property
    @override
    def loss_reduction(self) -> Any:
        return next(iter(self._heads.values())).loss_reduction

    @property
    def _has_loss_metrics(self) -> bool:
        """Whether the heads' losses are means: a sum over a batch has no mean over examples."""
        return checked_reduction(self.loss_reduction) is not Reduction.SUM

    def _parts(self, logits: Any) -> dict[str, Any]:
        """The logits by the heads' names."""
        if not isinstance(logits, dict):
            sizes = [head.logits_dimension for head in self._heads.values()]
            if logits.shape[-1] not in (None, sum(sizes)):
                raise UserError(
                    f"Could not split logits of shape {logits.shape} among the heads with "
                    f"individual logits dimensions: {sizes}; the last dimension of the logits "
                    f"should equal {sum(sizes)}."
                )
            return dict(zip(self._heads, tf.split(logits, sizes, axis=-1), strict=True))
        self._check_names("logits", logits)
        return logits

    def _check_names(self, what: str, given: Any) -> None:
        if not isinstance(given, dict):
            raise UserError(f"{what} must be a dict by the heads' names. Given: {given}.")
        lacking = [name for name in self._heads if name not in given]
        if lacking:
            raise UserError(f"{what} has missing values for head(s): {lacking}.")

    @override
    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> tf.Tensor:
        losses = self._losses(labels, logits, features, mode)
        weighted = [loss * w for loss, w in zip(losses.values(), self._weights, strict=True)]
        return tf.add_n([*weighted, *(regularization_losses or ())])

    def _losses(self, labels: Any, logits: Any, features: Any, mode: Any) -> dict[str, tf.Tensor]:
        self._check_names("labels", labels)
        parts = self._parts(logits)
        return {
            name: head.loss(labels[name], parts[name], features, mode)
            for name, head in self._heads.items()
        }

    @override
    def loss_denominator(self, labels: Any, logits: Any, features: Any) -> Any:
        reduction = checked_reduction(self.loss_reduction)
        if reduction is Reduction.SUM:
            return 1
        if reduction is Reduction.BATCH_SIZE:
            first = next(iter(self._parts(logits).values()))
            return tf.cast(tf.shape(first)[0], tf.float32)
        self._check_names("labels", labels)
        parts = self._parts(logits)
        found = [
            head.loss_denominator(labels[name], parts[name], features)
            for name, head in self._heads.items()
        ]
        return found[0] if len(found) == 1 else None

    @override
    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[Any, tf.Tensor]:
        return self._of_heads(logits, lambda head, part: head.predictions(part, keys))

    @override
    def training_predictions(self, logits: Any) -> dict[Any, tf.Tensor]:
        return self._of_heads(logits, lambda head, part: head.training_predictions(part))

    def _of_heads(self, logits: Any, predict: Callable[[Head, Any], dict]) -> dict[Any, tf.Tensor]:
        parts = self._parts(logits)
        return {
            (name, key): value
            for name, head in self._heads.items()
            for key, value in predict(head, parts[name]).items()
        }

    @override
    def export_outputs(self, predictions: dict[Any, tf.Tensor]) -> dict[str, ExportOutput]:
        outputs: dict[str, ExportOutput] = {}
        merged = {}
        for name, head in self._heads.items():
            own = {key: value for (of, key), value in predictions.items() if of == name}
            for key, output in head.export_outputs(own).items():
                outputs[name if key == DEFAULT else f"{name}/{key}"] = output
            merged.update({f"{name}/{key}": value for key, value in own.items()})
        first = next(iter(self._heads))
        return {DEFAULT: outputs[first], **outputs, "predict": PredictOutput(merged)}

    @override
    def metrics(self, regularization_losses: Sequence[Any] | None = None) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        if regularization_losses:
            metrics["regularization_loss"] = keras.metrics.Mean()
        for name, head in self._heads.items():
            if self._has_loss_metrics:
                metrics[f"loss/{name}"] = keras.metrics.Mean()
            metrics |= head.metrics()
        return metrics

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
        parts = self._parts(logits)
        losses = self._losses(labels, logits, features, mode)
        for name, head in self._heads.items():
            if self._has_loss_metrics:
                own = (labels[name], parts[name], features)
                size = head.loss_denominator(*own)
                if size is None:
                    size = tf.cast(tf.shape(parts[name])[0], tf.float32)
                update_mean(eval_metrics[f"loss/{name}"], losses[name], size)
            head.update_metrics(eval_metrics, features, parts[name], labels[name], mode)
        if regularization_losses:
            eval_metrics["regularization_loss"].update_state(tf.add_n(list(regularization_losses)))
        return eval_metrics
