"""TF1's dense, dropout and flatten."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.compat.v1.layers.building import (
    activated,
    as_inputs,
    channels_first,
    choose,
    known_size,
    layer_scope,
    weight,
    whole_number,
)
from tfbig.errors import UserError
from tfbig.layers.batch_position import current_position
from tfbig.layers.dropout import kept_units

_v1 = tf.compat.v1


def dense(
    inputs: Any,
    units: int,
    activation: Callable | None = None,
    use_bias: bool = True,
    kernel_initializer: Any = None,
    bias_initializer: Any = _v1.zeros_initializer(),  # noqa: B008 (TF1's default)
    kernel_regularizer: Callable | None = None,
    bias_regularizer: Callable | None = None,
    activity_regularizer: Callable | None = None,
    kernel_constraint: Callable | None = None,
    bias_constraint: Callable | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> tf.Tensor:
    """Returns `activation(inputs · kernel + bias)`; the weights are <name>/kernel and bias.

    Example: `logits = tfbig.compat.v1.layers.dense(net, 10, name="logits")`.

    Args:
        inputs: floats of shape [n, …, features], or a tf.SparseTensor of shape [n, features].
        units: size of the last dimension of the outputs.
        kernel_initializer: None: the initializer of the variable scope, else glorot_uniform.
        name, reuse: of the variable scope; the default name is dense, dense_1, …
        activation, use_bias, …: as in TF1.

    Raises:
        UserError: the last dimension of the inputs is unknown, or they are not floats.
    """
    units = whole_number("dense", "units", units)
    sparse = isinstance(inputs, tf.SparseTensor)
    if not sparse:
        inputs = as_inputs("dense", inputs)
    if inputs.shape.rank is None or inputs.shape.rank < 2 or (sparse and inputs.shape.rank > 2):
        raise UserError(f"layers.dense: expected inputs of rank 2 or more, got {inputs.shape}.")
    with layer_scope("dense", name, reuse):
        features = known_size("dense", inputs, -1)
        kernel = weight(
            "kernel", (features, units), inputs.dtype, kernel_initializer, kernel_regularizer,
            kernel_constraint, trainable,
        )  # fmt: skip
        if use_bias:
            bias = weight(
                "bias", (units,), inputs.dtype, bias_initializer, bias_regularizer,
                bias_constraint, trainable,
            )  # fmt: skip
        if sparse:
            outputs = tf.sparse.sparse_dense_matmul(inputs, kernel)
        elif inputs.shape.rank > 2:
            outputs = tf.tensordot(inputs, kernel, [[inputs.shape.rank - 1], [0]])
            outputs.set_shape([*inputs.shape[:-1], units])
        else:
            outputs = tf.matmul(inputs, kernel)
        if use_bias:
            outputs = tf.nn.bias_add(outputs, bias)
        return activated(outputs, activation, activity_regularizer)


def dropout(
    inputs: Any,
    rate: Any = 0.5,
    noise_shape: Sequence[int | None] | None = None,
    seed: int | None = None,
    training: Any = False,
    name: str | None = None,
) -> tf.Tensor:
    """Sets a fraction `rate` of the units to 0 in training and divides the others by 1 - rate.

    In tfbig's training the mask is a function of (seed, step, position in global batch), like
    that of tfbig.layers.Dropout: it drops the same units of the same examples on one device or
    many. It has no variable, so that checkpoints have the names of TF1. Without a seed, the mask
    depends on RunConfig.tf_random_seed and the layer's name. Outside of tfbig's training it is
    tf.nn.dropout.

    Example: `net = tfbig.compat.v1.layers.dropout(net, 0.4, training=mode == ModeKeys.TRAIN)`.

    Args:
        inputs: floats; the first dimension is the batch.
        rate: from 0 to 1, or a scalar tensor.
        noise_shape: shape of the mask; None entries are those of the inputs.
        seed: int, or None.
        training: bool or scalar bool tensor.
        name: name of the scope.
    """
    inputs = as_inputs("dropout", inputs)
    number = isinstance(rate, int | float)
    if number and not 0 <= rate <= 1:
        raise UserError(f"layers.dropout: rate={rate}: expected a number from 0 to 1.")
    with layer_scope("dropout", name) as scope:
        position = current_position()
        shared = noise_shape is not None and noise_shape[0] is not None

        def dropped() -> Any:
            if number and rate == 0:
                return tf.identity(inputs)
            if number and rate == 1:
                return tf.zeros_like(inputs)
            if position is None or shared or not number:
                shape = _filled(noise_shape, inputs)
                return tf.nn.dropout(inputs, rate=rate, noise_shape=shape, seed=seed)
            key = tf.constant(_key(scope.name, seed), tf.int64)
            kept = kept_units(inputs, rate, noise_shape, key, position)
            return tf.where(kept, inputs / (1 - rate), tf.zeros_like(inputs))

        return choose(training, dropped, lambda: tf.identity(inputs))


def _key(scope: str, seed: int | None) -> int:
    """A key of 31 bits that is the same for a layer in every trace, replica and process."""
    of_graph, _ = _v1.get_seed(seed)
    if seed is None:
        used = _v1.get_collection_ref("tfbig_dropouts")  # layers with one name differ by number
        used.append(scope)
        words = (of_graph, scope, used.count(scope))
    else:
        words = (of_graph, seed)
    return zlib.crc32(repr(words).encode()) >> 1


def _filled(noise_shape: Any, inputs: tf.Tensor) -> Any:
    if noise_shape is None or tf.is_tensor(noise_shape):
        return noise_shape
    there = tf.shape(inputs)
    return [there[i] if n is None else n for i, n in enumerate(noise_shape)]


def flatten(inputs: Any, name: str | None = None, data_format: str = "channels_last") -> tf.Tensor:
    """Flattens all dimensions but the first: [n, …] becomes [n, features].

    Example: `net = tfbig.compat.v1.layers.flatten(images)`.

    Args:
        inputs: a tensor of rank 1 or more.
        name: name of the scope.
        data_format: "channels_last", or "channels_first", which moves channels to the end first.
    """
    inputs = as_inputs("flatten", inputs)
    if inputs.shape.rank == 0:
        raise UserError("layers.flatten: expected inputs of rank 1 or more, received a scalar.")
    with layer_scope("flatten", name):
        rank = inputs.shape.rank
        if channels_first("flatten", data_format) and rank > 2:
            inputs = tf.transpose(inputs, [0, *range(2, rank), 1])
        features = inputs.shape[1:].num_elements()  # 1 for no dimension, None for unknown
        if features is None:
            outputs = tf.reshape(inputs, [tf.shape(inputs)[0], -1])
        else:
            outputs = tf.reshape(inputs, [-1 if features else tf.shape(inputs)[0], features])
        outputs.set_shape([inputs.shape[0], features])
        return outputs
