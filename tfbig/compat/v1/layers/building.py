"""What TF1's layers have in common: scopes, weights, and the losses of regularizers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError

_v1 = tf.compat.v1


@contextlib.contextmanager
def layer_scope(function: str, name: str | None, reuse: Any = None) -> Iterator[Any]:
    """The variable scope of one layer, as TF1's layers open it.

    Args:
        function: the layer's name, from which its scope is named where it has no name: dense,
            dense_1, …, counted in the enclosing scope.
        name, reuse: as the layer was given them.

    Raises:
        UserError: there is no graph in which scopes and collections could be kept.
    """
    if tf.executing_eagerly():
        raise UserError(
            f"tfbig.compat.v1.layers.{function} was called eagerly, where TF1's variable scopes "
            "do not exist; call it in a model_fn, a tf.function or a tf.Graph, or write a Keras "
            "layer."
        )
    if reuse and name is None:
        name = function  # TF1 then looks for the first of that name
    with _v1.variable_scope(name, default_name=function, reuse=reuse) as scope:
        yield scope


def as_inputs(function: str, inputs: Any, ranks: Sequence[int] = ()) -> tf.Tensor:
    """The inputs as a tensor of one of some ranks."""
    inputs = tf.convert_to_tensor(inputs)
    if inputs.shape.rank is None or (ranks and inputs.shape.rank not in ranks):
        wanted = " or ".join(map(str, ranks)) or "known"
        raise UserError(
            f"layers.{function}: expected inputs of rank {wanted}, received shape {inputs.shape}."
        )
    return inputs


def known_size(function: str, inputs: tf.Tensor, axis: int) -> int:
    """The size of a dimension from which the shape of weights follows."""
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
    """`get_variable` in the layer's scope; a regularizer adds to that of the scope, as in TF1.

    Args:
        initializer: None: that of the scope, else glorot_uniform.
        trainable, regularizer, constraint, keywords: as for get_variable.

    Raises:
        UserError: the dtype is that of whole numbers.
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
    """The outputs after the activation; an activity regularizer's mean per example is a loss."""
    if activation is not None:
        outputs = activation(outputs)
    if regularizer is not None:
        with tf.name_scope("ActivityRegularizer"):
            loss = regularizer(outputs)
            mean = loss / tf.cast(tf.shape(outputs)[0], loss.dtype)
        _v1.add_to_collection(_v1.GraphKeys.REGULARIZATION_LOSSES, mean)
    return outputs


def choose(condition: Any, if_true: Callable, if_false: Callable) -> Any:
    """One of two results, by a bool or number that Python knows, else by tf.cond."""
    known = tf.get_static_value(condition) if tf.is_tensor(condition) else condition
    if known is None:
        if not tf.is_tensor(condition):
            raise UserError("training=None: expected True, False or a scalar bool tensor.")
        return tf.cond(tf.cast(condition, tf.bool), if_true, if_false)
    return if_true() if known else if_false()
