"""The inputs of a served model: ServingInputReceiver and the functions that build one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.compat.gone import gone_estimator
from tfbig.errors import UserError
from tfbig.programs.model_fn.export_output import (
    ClassificationOutput,
    ExportOutput,
    PredictOutput,
    RegressionOutput,
)

__all__ = [
    "ClassificationOutput",
    "ExportOutput",
    "PredictOutput",
    "RegressionOutput",
    "ServingInputReceiver",
    "TensorServingInputReceiver",
    "build_parsing_serving_input_receiver_fn",
    "build_raw_serving_input_receiver_fn",
    "checked_receiver",
    "identifier",
]

_SINGLE = "input"
_EXAMPLES = "examples"


class ServingInputReceiver(NamedTuple):
    """The result of a serving_input_receiver_fn: input tensors, and the features made of them.

    Example:

        def serving_input_receiver_fn():
            images = tf.compat.v1.placeholder(tf.uint8, [None, 28, 28], name="images")
            features = {"image": tf.cast(images, tf.float32) / 255.0}
            return tfbig.estimator.export.ServingInputReceiver(features, {"images": images})

    Attributes:
        features: the features for model_fn, a tensor or a dict of tensors.
        receiver_tensors: a placeholder or a dict of placeholders; the keys are the names of the
            signature's inputs.
        receiver_tensors_alternatives: a dict of other placeholders from which the features can be
            computed; each one adds a signature `<name>:<output>`.
    """

    features: Any
    receiver_tensors: Any
    receiver_tensors_alternatives: Mapping[str, Any] | None = None


class TensorServingInputReceiver(ServingInputReceiver):
    """A ServingInputReceiver of a model_fn whose features are one tensor, and no dict.

    Example: `TensorServingInputReceiver(images / 255.0, images)`
    """

    __slots__ = ()

    def __new__(
        cls, features: Any, receiver_tensors: Any, receiver_tensors_alternatives: Any = None
    ) -> "TensorServingInputReceiver":
        """Raises a UserError if the features are no tensor."""
        if not isinstance(features, (tf.Tensor, tf.SparseTensor)):
            raise UserError(
                f"TensorServingInputReceiver(features={features!r}): expected one tensor; for a "
                "dict write ServingInputReceiver."
            )
        return super().__new__(cls, features, receiver_tensors, receiver_tensors_alternatives)


def build_raw_serving_input_receiver_fn(
    features: Any, default_batch_size: int | None = None
) -> Callable[[], ServingInputReceiver]:
    """Returns a serving_input_receiver_fn whose inputs are the features themselves.

    Example:

        build_raw_serving_input_receiver_fn({"x": tf.TensorSpec([None, 4], tf.float32)})

    Args:
        features: a tensor, array or tf.TensorSpec, or a dict of them. Only their shapes,
            [batch, …], and dtypes are used.
        default_batch_size: the size of the batch dimension; None for any size.

    Raises:
        UserError: a feature has no batch dimension.
    """
    single = not isinstance(features, Mapping)
    named = {_SINGLE: features} if single else dict(features)
    specs = {}
    for name, feature in named.items():
        if not hasattr(feature, "shape") or not hasattr(feature, "dtype"):
            feature = tf.convert_to_tensor(feature)
        shape = tf.TensorShape(feature.shape)
        if not shape.rank:
            raise UserError(
                f"build_raw_serving_input_receiver_fn: the feature {name!r} has shape {shape}; "
                "expected a batch dimension first, such as tf.TensorSpec([None, 4], tf.float32)."
            )
        specs[name] = tf.TensorSpec([default_batch_size, *shape[1:]], tf.as_dtype(feature.dtype))

    def serving_input_receiver_fn() -> ServingInputReceiver:
        placeholders = {
            name: tf.compat.v1.placeholder(spec.dtype, spec.shape, name=identifier(name))
            for name, spec in specs.items()
        }
        features = placeholders[_SINGLE] if single else dict(placeholders)
        return ServingInputReceiver(features, placeholders)

    return serving_input_receiver_fn


def build_parsing_serving_input_receiver_fn(
    feature_spec: Mapping[str, Any], default_batch_size: int | None = None
) -> Callable[[], ServingInputReceiver]:
    """Returns a serving_input_receiver_fn whose input is serialized tf.train.Example records.

    Example:

        build_parsing_serving_input_receiver_fn({"x": tf.io.FixedLenFeature([4], tf.float32)})

    Args:
        feature_spec: as for tf.io.parse_example, such as the result of
            tf.feature_column.make_parse_example_spec. A VarLenFeature is a SparseTensor for
            model_fn.
        default_batch_size: the number of records; None for any number.
    """

    def serving_input_receiver_fn() -> ServingInputReceiver:
        serialized = tf.compat.v1.placeholder(
            tf.string, [default_batch_size], name="input_example_tensor"
        )
        features = tf.io.parse_example(serialized, dict(feature_spec))
        return ServingInputReceiver(features, {_EXAMPLES: serialized})

    return serving_input_receiver_fn


def checked_receiver(receiver: Any) -> ServingInputReceiver:
    """Checks the result of a serving_input_receiver_fn, and makes dicts of its receiver tensors.

    Raises:
        UserError: the result is not a ServingInputReceiver of tensors.
    """
    fields = ("features", "receiver_tensors")
    if not all(hasattr(receiver, field) for field in fields):
        raise UserError(
            f"serving_input_receiver_fn returned {type(receiver).__name__}; return a "
            "tfbig.estimator.export.ServingInputReceiver(features, receiver_tensors)."
        )
    for leaf in tf.nest.flatten(receiver.features):
        if not isinstance(leaf, (tf.Tensor, tf.SparseTensor)):
            raise UserError(
                f"ServingInputReceiver.features has a {type(leaf).__name__}; expected tensors and "
                "SparseTensors, like those that the model was trained on."
            )
    alternatives = getattr(receiver, "receiver_tensors_alternatives", None) or {}
    return ServingInputReceiver(
        receiver.features,
        _placeholders(receiver.receiver_tensors, "receiver_tensors"),
        {
            name: _placeholders(tensors, f"receiver_tensors_alternatives[{name!r}]")
            for name, tensors in alternatives.items()
        },
    )


def _placeholders(tensors: Any, where: str) -> dict[str, tf.Tensor]:
    tensors = dict(tensors) if isinstance(tensors, Mapping) else {_SINGLE: tensors}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, tf.Tensor):
            raise UserError(
                f"ServingInputReceiver.{where} has {name!r}: {tensor!r}; expected "
                "tf.compat.v1.placeholder tensors by name."
            )
    return tensors


def identifier(name: str) -> str:
    """Makes a valid name for a graph operation from any string."""
    kept = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return kept if kept[:1].isalpha() else f"input_{kept}"


def __getattr__(name: str) -> Any:
    instead = gone_estimator(f"export.{name}")
    if instead is not None:
        raise UserError(f"tf.estimator.export.{name} does not exist in tfbig; {instead}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
