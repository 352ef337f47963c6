"""What a signature of an exported model returns."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError


class ExportOutput:
    """Base of what EstimatorSpec(export_outputs=…) may hold.

    Attributes:
        method_name: what TensorFlow Serving calls a signature of this kind.
    """

    method_name: str

    def outputs(self) -> dict[str, tf.Tensor]:
        """The signature's outputs by name."""
        raise NotImplementedError

    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "ExportOutput":
        """The same of other tensors."""
        raise NotImplementedError


class PredictOutput(ExportOutput):
    """Any tensors.

    Example:

        export_outputs={"serving_default": PredictOutput({"probabilities": probabilities})}

    Args:
        outputs: dict of tensors, or a tensor, which is named "output".
    """

    method_name = "tensorflow/serving/predict"

    def __init__(self, outputs: Any):
        outputs = dict(outputs) if isinstance(outputs, Mapping) else {"output": outputs}
        for name, tensor in outputs.items():
            if not isinstance(name, str):
                raise UserError(f"Prediction output key must be a string; got {name!r}.")
            _tensor(f"Prediction output {name!r}", tensor)
        self._outputs = outputs

    def outputs(self) -> dict[str, tf.Tensor]:
        return dict(self._outputs)

    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "PredictOutput":
        return PredictOutput({name: function(tensor) for name, tensor in self._outputs.items()})


class ClassificationOutput(ExportOutput):
    """Scores, or classes, or both.

    Args:
        scores: float tensor of shape [n, classes], or None.
        classes: string tensor of shape [n] or [n, classes], or None.
    """

    method_name = "tensorflow/serving/classify"

    def __init__(self, scores: Any = None, classes: Any = None):
        if scores is None and classes is None:
            raise UserError("At least one of scores and classes must be set.")
        if scores is not None and not _tensor("scores", scores).dtype.is_floating:
            raise UserError(f"Classification scores must be a float32 Tensor; got {scores}.")
        if classes is not None and _tensor("classes", classes).dtype != tf.string:
            raise UserError(f"Classification classes must be a string Tensor; got {classes}.")
        self.scores, self.classes = scores, classes

    def outputs(self) -> dict[str, tf.Tensor]:
        given = {"classes": self.classes, "scores": self.scores}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "ClassificationOutput":
        return ClassificationOutput(**{k: function(v) for k, v in self.outputs().items()})


class RegressionOutput(ExportOutput):
    """A number for each example.

    Args:
        value: float tensor of shape [n] or [n, 1].
    """

    method_name = "tensorflow/serving/regress"

    def __init__(self, value: Any):
        if not _tensor("value", value).dtype.is_floating:
            raise UserError(f"Regression output value must be a float32 Tensor; got {value}.")
        self.value = value

    def outputs(self) -> dict[str, tf.Tensor]:
        return {"outputs": self.value}

    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "RegressionOutput":
        return RegressionOutput(function(self.value))


def _tensor(what: str, value: Any) -> tf.Tensor:
    if not isinstance(value, tf.Tensor):
        raise UserError(f"{what} must be a Tensor; got {type(value).__name__}.")
    return value
