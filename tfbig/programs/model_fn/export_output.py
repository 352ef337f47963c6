"""The outputs of the signatures of an exported model."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError


class ExportOutput:
    """Base class of the values of EstimatorSpec(export_outputs=…).

    Attributes:
        method_name: the name of this kind of signature in TensorFlow Serving.
    """

    method_name: str

    def outputs(self) -> dict[str, tf.Tensor]:
        """Returns the outputs of the signature, by name."""
        raise NotImplementedError

    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "ExportOutput":
        """Returns a copy in which a function has been applied to every tensor."""
        raise NotImplementedError


class PredictOutput(ExportOutput):
    """The output of a predict signature: any tensors.

    Example:

        export_outputs={"serving_default": PredictOutput({"probabilities": probabilities})}

    Args:
        outputs: dict of tensors, or one tensor, which gets the name "output".
    """

    method_name = "tensorflow/serving/predict"

    def __init__(self, outputs: Any):
        outputs = dict(outputs) if isinstance(outputs, Mapping) else {"output": outputs}
        for name, tensor in outputs.items():
            if not isinstance(name, str):
                raise UserError(f"Prediction output key must be a string; got {name!r}.")
            _tensor(f"Prediction output {name!r}", tensor)
        self._outputs = outputs

    @override
    def outputs(self) -> dict[str, tf.Tensor]:
        return dict(self._outputs)

    @override
    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "PredictOutput":
        return PredictOutput({name: function(tensor) for name, tensor in self._outputs.items()})


class ClassificationOutput(ExportOutput):
    """The output of a classify signature: scores, classes, or both.

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

    @override
    def outputs(self) -> dict[str, tf.Tensor]:
        given = {"classes": self.classes, "scores": self.scores}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    @override
    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "ClassificationOutput":
        return ClassificationOutput(**{k: function(v) for k, v in self.outputs().items()})


class RegressionOutput(ExportOutput):
    """The output of a regress signature: one number per example.

    Args:
        value: float tensor of shape [n] or [n, 1].
    """

    method_name = "tensorflow/serving/regress"

    def __init__(self, value: Any):
        if not _tensor("value", value).dtype.is_floating:
            raise UserError(f"Regression output value must be a float32 Tensor; got {value}.")
        self.value = value

    @override
    def outputs(self) -> dict[str, tf.Tensor]:
        return {"outputs": self.value}

    @override
    def map_tensors(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "RegressionOutput":
        return RegressionOutput(function(self.value))


def _tensor(what: str, value: Any) -> tf.Tensor:
    if not isinstance(value, tf.Tensor):
        raise UserError(f"{what} must be a Tensor; got {type(value).__name__}.")
    return value
