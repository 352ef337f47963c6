"""`tf.contrib.layers`: layer_norm."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError

__all__ = ["layer_norm"]

_v1 = tf.compat.v1


def layer_norm(
    inputs: Any,
    center: bool = True,
    scale: bool = True,
    activation_fn: Callable | None = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    begin_norm_axis: int = 1,
    begin_params_axis: int = -1,
    scope: Any = None,
) -> tf.Tensor:
    """Layer normalization (Ba et al., 2016) with the variables of tf.contrib: beta and gamma.

    Unlike a Keras layer, it makes its variables in the variable scope, such as
    bert/embeddings/LayerNorm/gamma. So checkpoints of TF1 fit.

    Example: `net = layer_norm(net, begin_norm_axis=-1, begin_params_axis=-1)`

    Args:
        inputs: floats of known rank, [n, …].
        center, scale: whether there is a beta that is added, and a gamma that is multiplied.
        activation_fn: applied to the result.
        reuse, scope: of the variable scope; the default names are LayerNorm, LayerNorm_1, …
        variables_collections: names of collections for beta and gamma.
        outputs_collections: must be None.
        trainable: whether beta and gamma are trained.
        begin_norm_axis: mean and variance are over this axis and all that follow it.
        begin_params_axis: beta and gamma have the shape of this axis and all that follow it.

    Returns:
        A tensor of the shape of inputs.

    Raises:
        UserError: an argument has an invalid value.
    """
    if outputs_collections is not None:
        raise UserError("layer_norm(outputs_collections=…) is not supported; leave it out.")
    inputs = tf.convert_to_tensor(inputs)
    rank = inputs.shape.rank
    if rank is None:
        raise UserError("layer_norm: expected inputs of known rank; use tf.ensure_shape first.")
    for name, axis in (
        ("begin_norm_axis", begin_norm_axis),
        ("begin_params_axis", begin_params_axis),
    ):
        if not -rank <= axis < rank:
            raise UserError(
                f"layer_norm({name}={axis}): expected an axis of the inputs, whose shape is "
                f"{inputs.shape}."
            )
    shape = inputs.shape[begin_params_axis:]
    if not shape.is_fully_defined():
        raise UserError(
            f"layer_norm: beta and gamma would have shape {shape}; use tf.ensure_shape first."
        )

    def variable(name: str, initializer: Callable) -> tf.Variable:
        return _v1.get_variable(
            name,
            shape,
            inputs.dtype,
            initializer=initializer,
            trainable=trainable,
            collections=_collections(variables_collections, name),
        )

    with _v1.variable_scope(scope, "LayerNorm", [inputs], reuse=reuse):
        beta = variable("beta", _v1.zeros_initializer()) if center else None
        gamma = variable("gamma", _v1.ones_initializer()) if scale else None
        axes = list(range(begin_norm_axis % rank, rank))
        mean, variance = tf.nn.moments(inputs, axes, keepdims=True)
        # float16 does not have 1e-12.
        epsilon = 1e-3 if inputs.dtype == tf.float16 else 1e-12
        outputs = tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, epsilon)
        outputs = tf.ensure_shape(outputs, inputs.shape)
        return outputs if activation_fn is None else activation_fn(outputs)


def _collections(given: Any, name: str) -> list[str] | None:
    """The collections of a variable; None: those of get_variable."""
    if isinstance(given, dict):
        given = given.get(name)
    if not given:
        return None
    return [_v1.GraphKeys.GLOBAL_VARIABLES, *([given] if isinstance(given, str) else given)]
