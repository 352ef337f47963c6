"""TF1's pooling layers."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.compat.v1.layers.building import (
    as_inputs,
    channels_first,
    layer_scope,
    padding_of,
    sizes,
)


def max_pooling1d(
    inputs: Any, pool_size: Any, strides: Any, padding: str = "valid",
    data_format: str = "channels_last", name: str | None = None,
) -> tf.Tensor:  # fmt: skip
    """The maximum of each window along the second dimension of [n, length, channels].

    Example: `net = tfbig.compat.v1.layers.max_pooling1d(net, 2, 2)`.

    Args:
        pool_size, strides: the window and its step.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        name: of the scope.
    """
    return _pool(
        tf.nn.max_pool1d, "max_pooling1d", inputs, pool_size, strides, padding, data_format, name
    )


def max_pooling2d(
    inputs: Any, pool_size: Any, strides: Any, padding: str = "valid",
    data_format: str = "channels_last", name: str | None = None,
) -> tf.Tensor:  # fmt: skip
    """The maximum of each window over the two middle dimensions of [n, height, width, channels].

    Example: `net = tfbig.compat.v1.layers.max_pooling2d(net, (2, 2), strides=2)`.

    Args:
        pool_size, strides: the window and its step, a number or a pair.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        name: of the scope.
    """
    return _pool(
        tf.nn.max_pool2d, "max_pooling2d", inputs, pool_size, strides, padding, data_format, name
    )


def average_pooling1d(
    inputs: Any, pool_size: Any, strides: Any, padding: str = "valid",
    data_format: str = "channels_last", name: str | None = None,
) -> tf.Tensor:  # fmt: skip
    """The mean of each window; the arguments are those of max_pooling1d.

    Example: `net = tfbig.compat.v1.layers.average_pooling1d(net, 2, 2)`.
    """
    return _pool(
        tf.nn.avg_pool1d, "average_pooling1d", inputs, pool_size, strides, padding, data_format,
        name,
    )  # fmt: skip


def average_pooling2d(
    inputs: Any, pool_size: Any, strides: Any, padding: str = "valid",
    data_format: str = "channels_last", name: str | None = None,
) -> tf.Tensor:  # fmt: skip
    """The mean of each window; the arguments are those of max_pooling2d.

    Example: `net = tfbig.compat.v1.layers.average_pooling2d(net, (2, 2), strides=2)`.
    """
    return _pool(
        tf.nn.avg_pool2d, "average_pooling2d", inputs, pool_size, strides, padding, data_format,
        name,
    )  # fmt: skip


def _pool(
    operation: Callable,
    function: str,
    inputs: tf.Tensor,
    pool_size: Any,
    strides: Any,
    padding: str,
    data_format: str,
    name: str | None,
) -> tf.Tensor:
    count = int(function[-2])
    first = channels_first(function, data_format)
    with layer_scope(function, name):
        return operation(
            as_inputs(function, inputs, [count + 2]),
            ksize=sizes(function, "pool_size", pool_size, count),
            strides=sizes(function, "strides", strides, count),
            padding=padding_of(function, padding),
            data_format={1: ("NWC", "NCW"), 2: ("NHWC", "NCHW")}[count][first],
        )
