"""`tf.contrib.layers`: layer_norm and optimize_loss."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError

__all__ = ["layer_norm", "optimize_loss"]

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


_OPTIMIZERS = {
    "Adagrad": _v1.train.AdagradOptimizer,
    "Adam": _v1.train.AdamOptimizer,
    "Ftrl": _v1.train.FtrlOptimizer,
    "Momentum": lambda rate: _v1.train.MomentumOptimizer(rate, momentum=0.9),
    "RMSProp": _v1.train.RMSPropOptimizer,
    "SGD": _v1.train.GradientDescentOptimizer,
}


def optimize_loss(
    loss: tf.Tensor,
    global_step: Any,
    learning_rate: Any,
    optimizer: Any,
    gradient_noise_scale: float | None = None,
    gradient_multipliers: dict[Any, Any] | None = None,
    clip_gradients: Any = None,
    learning_rate_decay_fn: Callable | None = None,
    update_ops: Sequence[Any] | None = None,
    variables: Sequence[Any] | None = None,
    name: str | None = None,
    summaries: Sequence[str] | None = None,
    colocate_gradients_with_ops: bool = False,
    increment_global_step: bool = True,
) -> tf.Operation:
    """Returns a train_op that minimizes a loss, and runs the updates of layers.

    Example: `train_op = optimize_loss(loss, step, 0.1, "SGD", clip_gradients=1.0)`

    Args:
        loss: scalar.
        global_step: the variable; None for that of the graph.
        learning_rate: a number or a tensor; None for an optimizer that has one.
        optimizer: "Adagrad", "Adam", "Ftrl", "Momentum" (0.9), "RMSProp" or "SGD"; a class or a
            function of the learning rate; or an optimizer of tf.compat.v1.train.
        gradient_noise_scale: must be None.
        gradient_multipliers: factors of gradients, by the name of the variable.
        clip_gradients: the largest global norm, or a function from (gradient, variable) pairs to
            such pairs.
        learning_rate_decay_fn: from (learning_rate, global_step) to the learning rate.
        update_ops: None for those of UPDATE_OPS.
        variables: None for all trainable ones.
        name: of the variable scope, "OptimizeLoss" by default.
        summaries: must be None or empty; write tf.compat.v1.summary.
        colocate_gradients_with_ops: has no effect: tfbig places operations.
        increment_global_step: whether the step counts.

    Raises:
        UserError: an argument has an invalid value.
    """
    del colocate_gradients_with_ops
    if gradient_noise_scale is not None or summaries:
        raise UserError(
            "optimize_loss: gradient_noise_scale and summaries are not supported; leave them out, "
            "and write tf.compat.v1.summary.scalar(name, tensor)."
        )
    step = _v1.train.get_or_create_global_step() if global_step is None else global_step
    if update_ops is None:
        update_ops = _v1.get_collection(_v1.GraphKeys.UPDATE_OPS)
    with _v1.variable_scope(name, "OptimizeLoss"), tf.control_dependencies(list(update_ops)):
        if learning_rate_decay_fn is not None:
            learning_rate = learning_rate_decay_fn(learning_rate, step)
        made = _optimizer_of(optimizer, learning_rate)
        pairs = made.compute_gradients(tf.identity(loss), variables)
        pairs = [(g, v) for g, v in pairs if g is not None]
        factors = gradient_multipliers or {}
        of = lambda v: factors.get(v.name, factors.get(v.name.removesuffix(":0")))  # noqa: E731
        pairs = [(_times(g, of(v)), v) for g, v in pairs]
        if callable(clip_gradients):
            pairs = clip_gradients(pairs)
        elif clip_gradients is not None:
            gradients, weights = zip(*pairs, strict=True)
            clipped, _ = tf.clip_by_global_norm(gradients, clip_gradients)
            pairs = list(zip(clipped, weights, strict=True))
        counted = step if increment_global_step else None
        train_op = made.apply_gradients(pairs, global_step=counted, name="train")
    return tf.group(train_op, *update_ops)


def _optimizer_of(given: Any, rate: Any) -> tf.compat.v1.train.Optimizer:
    if isinstance(given, str):
        if given not in _OPTIMIZERS or rate is None:
            raise UserError(
                f"optimize_loss(learning_rate={rate!r}, optimizer={given!r}): expected a learning "
                f"rate and one of {tuple(_OPTIMIZERS)}."
            )
        return _OPTIMIZERS[given](rate)
    found = given
    if not isinstance(given, _v1.train.Optimizer) and callable(given):
        found = given() if rate is None else given(rate)
    if not isinstance(found, _v1.train.Optimizer):
        raise UserError(
            f"optimize_loss(optimizer={given!r}): expected a name, an optimizer of "
            "tf.compat.v1.train, its class, or a function of the learning rate."
        )
    return found


def _times(gradient: Any, factor: Any) -> Any:
    if factor is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * factor
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * factor
