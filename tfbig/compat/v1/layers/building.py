"""Helpers that TF1's layers share: scopes, weights, losses of regularizers, argument checks."""

import contextlib
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError

_v1 = tf.compat.v1


@contextlib.contextmanager
def layer_scope(function: str, name: str | None, reuse: Any = None) -> Iterator[Any]:
    """Opens the variable scope of one layer, as TF1's layers do.

    Args:
        function: the default name of the scope: dense, dense_1, …, numbered in the enclosing
            scope.
        name, reuse: the arguments of the layer.

    Raises:
        UserError: the layer is called eagerly, without a graph for scopes and collections.
    """
    if tf.executing_eagerly():
        raise UserError(
            f"tfbig.compat.v1.layers.{function} was called eagerly, where TF1's variable scopes "
            "do not exist; call it in a model_fn, a tf.function or a tf.Graph, or use a Keras "
            "layer."
        )
    if reuse and name is None:
        name = function  # TF1 then reuses the first layer with the default name
    with _v1.variable_scope(name, default_name=function, reuse=reuse) as scope:
        yield scope


def as_inputs(function: str, inputs: Any, ranks: Sequence[int] = ()) -> tf.Tensor:
    """Converts inputs to a tensor and checks its rank."""
    inputs = tf.convert_to_tensor(inputs)
    if inputs.shape.rank is None or (ranks and inputs.shape.rank not in ranks):
        wanted = " or ".join(map(str, ranks)) or "known"
        raise UserError(
            f"layers.{function}: expected inputs of rank {wanted}, received shape {inputs.shape}."
        )
    return inputs


def known_size(function: str, inputs: tf.Tensor, axis: int) -> int:
    """The size of a dimension that determines the shape of weights."""
    size = inputs.shape[axis]
    if size is None:
        raise UserError(
            f"layers.{function}: dimension {axis} of the inputs must be known, since weights have "
            f"its size; received shape {inputs.shape}. Use tf.reshape or tf.ensure_shape first."
        )
    return size


def weight(
    name: str,
    shape: Sequence[int],
    dtype: tf.DType,
    initializer: Any,
    regularizer: Callable | None = None,
    constraint: Callable | None = None,
    trainable: bool = True,
    **keywords: Any,
) -> tf.Variable:
    """Calls `get_variable` in the layer's scope; adds the scope's regularizer, as in TF1.

    Args:
        name, shape, dtype: name, shape and dtype of the variable.
        initializer: None: the initializer of the scope, else glorot_uniform.
        trainable, regularizer, constraint, keywords: as for get_variable.

    Raises:
        UserError: the dtype is an integer type.
    """
    if not dtype.is_floating and not dtype.is_complex:
        raise UserError(
            f"the weight {_v1.get_variable_scope().name}/{name} would have dtype {dtype.name}, "
            "which is that of the inputs; cast them with tf.cast(inputs, tf.float32)."
        )
    of_scope = _v1.get_variable_scope().regularizer
    if regularizer is not None and of_scope is not None:
        own = regularizer

        def regularizer(variable: tf.Variable) -> Any:
            return tf.add_n([r for r in (own(variable), of_scope(variable)) if r is not None])

    return _v1.get_variable(
        name,
        shape=tuple(shape),
        dtype=dtype,
        initializer=initializer,
        regularizer=regularizer,
        constraint=constraint,
        trainable=trainable,
        **keywords,
    )


def activated(outputs: tf.Tensor, activation: Callable | None, regularizer: Callable | None) -> Any:
    """Applies the activation; an activity regularizer adds its mean per example as a loss."""
    if activation is not None:
        outputs = activation(outputs)
    if regularizer is not None:
        with tf.name_scope("ActivityRegularizer"):
            loss = regularizer(outputs)
            mean = loss / tf.cast(tf.shape(outputs)[0], loss.dtype)
        _v1.add_to_collection(_v1.GraphKeys.REGULARIZATION_LOSSES, mean)
    return outputs


def choose(condition: Any, if_true: Callable, if_false: Callable) -> Any:
    """Calls one of two functions: in Python if the condition is known, else by tf.cond."""
    known = tf.get_static_value(condition) if tf.is_tensor(condition) else condition
    if known is None:
        if not tf.is_tensor(condition):
            raise UserError("training=None: expected True, False or a scalar bool tensor.")
        return tf.cond(tf.cast(condition, tf.bool), if_true, if_false)
    return if_true() if known else if_false()


def whole_number(function: str, name: str, value: Any) -> int:
    """Checks a size: an integer of 1 or more."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number != value:
        raise UserError(f"layers.{function}: {name}={value!r}: expected an integer of 1 or more.")
    return number


def sizes(function: str, name: str, value: Any, count: int) -> tuple[int, ...]:
    """Converts a number or a sequence to one size per spatial dimension."""
    if isinstance(value, numbers.Number):
        value = (value,) * count
    if not isinstance(value, Sequence) or len(value) != count:
        raise UserError(
            f"layers.{function}: {name}={value!r}: expected a number or {count} numbers."
        )
    return tuple(whole_number(function, name, v) for v in value)


def padding_of(function: str, padding: Any) -> str:
    """Converts "valid" and "same" to upper case, as TensorFlow's ops need them."""
    found = str(padding).upper()
    if found not in ("VALID", "SAME"):
        raise UserError(f"layers.{function}: padding={padding!r}: expected 'valid' or 'same'.")
    return found


def channels_first(function: str, data_format: Any) -> bool:
    """Whether dimension 1 is the channels, instead of the last dimension."""
    found = str(data_format).lower()
    if found not in ("channels_last", "channels_first"):
        raise UserError(
            f"layers.{function}: data_format={data_format!r}: expected 'channels_last' or "
            "'channels_first'."
        )
    return found == "channels_first"
