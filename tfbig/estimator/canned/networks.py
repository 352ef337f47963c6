"""The networks of the canned estimators: from features to logits."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.compat.v1 import layers
from tfbig.errors import UserError
from tfbig.estimator.quiet import quiet_deprecations
from tfbig.programs.model_fn.spec import ModeKeys

_v1 = tf.compat.v1


def dnn_logits(
    features: Any,
    mode: str,
    units: int,
    hidden_units: Sequence[int],
    feature_columns: Sequence[Any],
    activation_fn: Callable | None = tf.nn.relu,
    dropout: float | None = None,
    batch_norm: bool = False,
) -> tf.Tensor:
    """Computes the logits of a dense network on feature columns.

    The variables have the names of tf.estimator's, in the current variable scope.

    Args:
        features: dict of tensors.
        mode: a ModeKeys value.
        units: the size of the logits.
        hidden_units: of each hidden layer.
        feature_columns: of tf.feature_column.
        activation_fn: of the hidden layers; a function, or a name that Keras knows.
        dropout: the probability that an activation is left out in training; or None.
        batch_norm: whether each hidden layer is normalized over the batch.

    Returns:
        [n, units].
    """
    training = mode == ModeKeys.TRAIN
    activation_fn = keras.activations.get(activation_fn)
    with _v1.variable_scope("input_from_feature_columns"), quiet_deprecations():
        net = _v1.feature_column.input_layer(features, list(feature_columns))
    for number, size in enumerate(hidden_units):
        name = f"hiddenlayer_{number}"
        net = layers.dense(net, size, activation_fn, name=name)
        if dropout is not None:
            net = layers.dropout(net, dropout, training=training)
        if batch_norm:
            with _v1.variable_scope(name):
                norm = f"batchnorm_{number}"
                net = layers.batch_normalization(net, momentum=0.999, training=training, name=norm)
        _summarize(net, f"{_scope()}{name}")
    logits = layers.dense(net, units, name="logits")
    _summarize(logits, f"{_scope()}logits")
    return logits


def linear_logits(
    features: Any, units: int, feature_columns: Sequence[Any], sparse_combiner: str = "sum"
) -> tf.Tensor:
    """Computes the logits of a linear model on feature columns.

    Args:
        features: dict of tensors.
        units: the size of the logits.
        feature_columns: of tf.feature_column.
        sparse_combiner: "sum", "mean" or "sqrtn" of the values of a categorical column.

    Returns:
        [n, units].
    """
    weights: dict[Any, Any] = {}
    with quiet_deprecations():
        logits = _v1.feature_column.linear_model(
            features,
            list(feature_columns),
            units=units,
            sparse_combiner=sparse_combiner,
            cols_to_vars=weights,
        )
    bias, *others = [weights.pop("bias"), *weights.values()]
    bias = bias[0] if isinstance(bias, list) else bias
    flat = [tf.reshape(v, [-1]) for v in tf.nest.flatten(others)]
    name = "bias" if units == 1 else "bias_logits"
    (_v1.summary.scalar if units == 1 else _v1.summary.histogram)(
        name, bias[0] if units == 1 else bias
    )
    if flat:
        zeros = tf.math.zero_fraction(tf.concat(flat, 0))
        _v1.summary.scalar("fraction_of_zero_weights", zeros)
    return logits


def baseline_logits(features: Any, units: int, weight_column: Any = None) -> tf.Tensor:
    """Computes the logits of a model that ignores the features: a bias.

    Args:
        features: a tensor or a dict of tensors, for the size of the batch.
        units: the size of the logits.
        weight_column: the feature that is not used for it.

    Returns:
        [n, units].
    """
    if isinstance(features, dict):
        key = getattr(weight_column, "key", weight_column)
        left = [value for name, value in features.items() if name != key]
        if not left:
            raise UserError("a baseline estimator needs a feature besides the weight_column.")
        first = left[0]
    else:
        first = features
    rows = first.dense_shape[0] if isinstance(first, tf.SparseTensor) else tf.shape(first)[0]
    with _v1.variable_scope("baseline"):
        bias = _v1.get_variable("bias", [units], initializer=_v1.zeros_initializer())
    return bias * tf.ones([rows, units])


def check_features(features: Any) -> None:
    """Raises a UserError if the features are no dict, which feature columns need."""
    if not isinstance(features, dict):
        raise UserError(
            f"features should be a dictionary of `Tensor`s. Given type: "
            f"{type(features).__name__}; return ({{name: tensor}}, labels) from input_fn."
        )


def _summarize(value: tf.Tensor, tag: str) -> None:
    _v1.summary.scalar(f"{tag}/fraction_of_zero_values", tf.math.zero_fraction(value))
    _v1.summary.histogram(f"{tag}/activation", value)


def _scope() -> str:
    scope = _v1.get_variable_scope().name
    return f"{scope}/" if scope else ""
