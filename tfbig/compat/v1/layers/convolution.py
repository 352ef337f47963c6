"""TF1's convolutions."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.compat.v1.layers.building import (
    activated,
    as_inputs,
    channels_first,
    known_size,
    layer_scope,
    padding_of,
    sizes,
    weight,
    whole_number,
)

_ZEROS = tf.compat.v1.zeros_initializer()


def conv1d(
    inputs: Any,
    filters: int,
    kernel_size: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: Any = 1,
    activation: Callable | None = None,
    use_bias: bool = True,
    kernel_initializer: Any = None,
    bias_initializer: Any = _ZEROS,
    kernel_regularizer: Callable | None = None,
    bias_regularizer: Callable | None = None,
    activity_regularizer: Callable | None = None,
    kernel_constraint: Callable | None = None,
    bias_constraint: Callable | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> tf.Tensor:
    """A convolution along [n, length, channels]; the weights are <name>/kernel and <name>/bias.

    Example: `net = tfbig.compat.v1.layers.conv1d(net, 32, 5, activation=tf.nn.relu)`.

    Args:
        inputs: floats of rank 3.
        filters: the number of output channels.
        kernel_size, strides, dilation_rate: numbers.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        name, reuse: of the variable scope; without a name it is conv1d, conv1d_1, …
        activation, …: as in TF1.
    """
    return _conv(
        "conv1d", inputs, filters, kernel_size, strides, padding, data_format, dilation_rate,
        activation, use_bias, (kernel_initializer, kernel_regularizer, kernel_constraint),
        (bias_initializer, bias_regularizer, bias_constraint), activity_regularizer, trainable,
        name, reuse,
    )  # fmt: skip


def conv2d(
    inputs: Any,
    filters: int,
    kernel_size: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: Any = (1, 1),
    activation: Callable | None = None,
    use_bias: bool = True,
    kernel_initializer: Any = None,
    bias_initializer: Any = _ZEROS,
    kernel_regularizer: Callable | None = None,
    bias_regularizer: Callable | None = None,
    activity_regularizer: Callable | None = None,
    kernel_constraint: Callable | None = None,
    bias_constraint: Callable | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> tf.Tensor:
    """A convolution of [n, height, width, channels]; the weights are <name>/kernel and bias.

    Example: `net = tfbig.compat.v1.layers.conv2d(net, 32, [5, 5], padding="same")`.

    Args:
        inputs: floats of rank 4.
        filters: the number of output channels.
        kernel_size, strides, dilation_rate: a number or a pair.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        name, reuse: of the variable scope; without a name it is conv2d, conv2d_1, …
        activation, …: as in TF1.
    """
    return _conv(
        "conv2d", inputs, filters, kernel_size, strides, padding, data_format, dilation_rate,
        activation, use_bias, (kernel_initializer, kernel_regularizer, kernel_constraint),
        (bias_initializer, bias_regularizer, bias_constraint), activity_regularizer, trainable,
        name, reuse,
    )  # fmt: skip


def _conv(
    function: str, inputs: tf.Tensor, filters: int, kernel_size: Any, strides: Any, padding: str,
    data_format: str, dilation_rate: Any, activation: Callable | None, use_bias: bool,
    of_kernel: tuple[Any, Any, Any], of_bias: tuple[Any, Any, Any],
    activity_regularizer: Callable | None, trainable: bool, name: str | None, reuse: Any,
) -> tf.Tensor:  # fmt: skip
    count = int(function[-2])
    inputs = as_inputs(function, inputs, [count + 2])
    filters = whole_number(function, "filters", filters)
    first = channels_first(function, data_format)
    with layer_scope(function, name, reuse):
        channels = known_size(function, inputs, 1 if first else -1)
        window = sizes(function, "kernel_size", kernel_size, count)
        kernel = weight("kernel", (*window, channels, filters), inputs.dtype, *of_kernel, trainable)
        bias = weight("bias", (filters,), inputs.dtype, *of_bias, trainable) if use_bias else None
        outputs = tf.nn.convolution(
            inputs,
            kernel,
            strides=sizes(function, "strides", strides, count),
            padding=padding_of(function, padding),
            data_format={1: ("NWC", "NCW"), 2: ("NHWC", "NCHW")}[count][first],
            dilations=sizes(function, "dilation_rate", dilation_rate, count),
        )
        return activated(_biased(outputs, bias, first), activation, activity_regularizer)


def conv2d_transpose(
    inputs: Any,
    filters: int,
    kernel_size: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str = "channels_last",
    activation: Callable | None = None,
    use_bias: bool = True,
    kernel_initializer: Any = None,
    bias_initializer: Any = _ZEROS,
    kernel_regularizer: Callable | None = None,
    bias_regularizer: Callable | None = None,
    activity_regularizer: Callable | None = None,
    kernel_constraint: Callable | None = None,
    bias_constraint: Callable | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> tf.Tensor:
    """The transpose of a convolution; <name>/kernel is [height, width, filters, channels].

    Example: `net = tfbig.compat.v1.layers.conv2d_transpose(net, 16, 3, strides=2)`.

    Args:
        inputs: floats of rank 4.
        filters: the number of output channels.
        kernel_size, strides: a number or a pair.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        name, reuse: of the variable scope; without a name it is conv2d_transpose, …
        activation, …: as in TF1.
    """
    inputs = as_inputs("conv2d_transpose", inputs, [4])
    filters = whole_number("conv2d_transpose", "filters", filters)
    first = channels_first("conv2d_transpose", data_format)
    padding = padding_of("conv2d_transpose", padding)
    window = sizes("conv2d_transpose", "kernel_size", kernel_size, 2)
    steps = sizes("conv2d_transpose", "strides", strides, 2)
    with layer_scope("conv2d_transpose", name, reuse):
        channels = known_size("conv2d_transpose", inputs, 1 if first else -1)
        kernel = weight(
            "kernel", (*window, filters, channels), inputs.dtype, kernel_initializer,
            kernel_regularizer, kernel_constraint, trainable,
        )  # fmt: skip
        bias = None
        if use_bias:
            bias = weight(
                "bias", (filters,), inputs.dtype, bias_initializer, bias_regularizer,
                bias_constraint, trainable,
            )  # fmt: skip
        there = tf.shape(inputs)
        known, shape = [inputs.shape[0]], [there[0]]
        for axis, size, step in zip((2, 3) if first else (1, 2), window, steps, strict=True):
            more = max(size - step, 0) if padding == "VALID" else 0
            length = inputs.shape[axis]
            known.append(None if length is None else length * step + more)
            shape.append(there[axis] * step + more)
        for each in (known, shape):
            each.insert(1 if first else 3, filters)
        outputs = tf.nn.conv2d_transpose(
            inputs, kernel, tf.stack(shape), strides=steps, padding=padding,
            data_format="NCHW" if first else "NHWC",
        )  # fmt: skip
        outputs.set_shape(known)
        return activated(_biased(outputs, bias, first), activation, activity_regularizer)


def separable_conv2d(
    inputs: Any,
    filters: int,
    kernel_size: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: Any = (1, 1),
    depth_multiplier: int = 1,
    activation: Callable | None = None,
    use_bias: bool = True,
    depthwise_initializer: Any = None,
    pointwise_initializer: Any = None,
    bias_initializer: Any = _ZEROS,
    depthwise_regularizer: Callable | None = None,
    pointwise_regularizer: Callable | None = None,
    bias_regularizer: Callable | None = None,
    activity_regularizer: Callable | None = None,
    depthwise_constraint: Callable | None = None,
    pointwise_constraint: Callable | None = None,
    bias_constraint: Callable | None = None,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
) -> tf.Tensor:
    """A depthwise convolution of each channel, then a 1 x 1 convolution over the channels.

    The weights are <name>/depthwise_kernel, <name>/pointwise_kernel and <name>/bias.

    Example: `net = tfbig.compat.v1.layers.separable_conv2d(net, 32, 3, padding="same")`.

    Args:
        inputs: floats of rank 4.
        filters: the number of output channels.
        kernel_size, strides, dilation_rate: a number or a pair; the two strides are equal.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        depth_multiplier: number of output channels per input channel of the depthwise convolution.
        name, reuse: of the variable scope; without a name it is separable_conv2d, …
        activation, …: as in TF1.
    """
    inputs = as_inputs("separable_conv2d", inputs, [4])
    filters = whole_number("separable_conv2d", "filters", filters)
    first = channels_first("separable_conv2d", data_format)
    steps = sizes("separable_conv2d", "strides", strides, 2)
    with layer_scope("separable_conv2d", name, reuse):
        channels = known_size("separable_conv2d", inputs, 1 if first else -1)
        window = sizes("separable_conv2d", "kernel_size", kernel_size, 2)
        depthwise = weight(
            "depthwise_kernel", (*window, channels, depth_multiplier), inputs.dtype,
            depthwise_initializer, depthwise_regularizer, depthwise_constraint, trainable,
        )  # fmt: skip
        pointwise = weight(
            "pointwise_kernel", (1, 1, channels * depth_multiplier, filters), inputs.dtype,
            pointwise_initializer, pointwise_regularizer, pointwise_constraint, trainable,
        )  # fmt: skip
        bias = None
        if use_bias:
            bias = weight(
                "bias", (filters,), inputs.dtype, bias_initializer, bias_regularizer,
                bias_constraint, trainable,
            )  # fmt: skip
        outputs = tf.nn.separable_conv2d(
            inputs, depthwise, pointwise, strides=(1, 1, *steps) if first else (1, *steps, 1),
            padding=padding_of("separable_conv2d", padding),
            data_format="NCHW" if first else "NHWC",
            dilations=sizes("separable_conv2d", "dilation_rate", dilation_rate, 2),
        )  # fmt: skip
        return activated(_biased(outputs, bias, first), activation, activity_regularizer)


def _biased(outputs: tf.Tensor, bias: tf.Variable | None, first: bool) -> tf.Tensor:
    if bias is None:
        return outputs
    return tf.nn.bias_add(outputs, bias, data_format="NC..." if first else "N...C")
