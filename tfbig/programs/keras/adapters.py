"""Low-rank adapters (LoRA) of Keras layers: how to copy, merge and compute them.

Hu et al., "LoRA: Low-rank adaptation of large language models", 2021,
https://arxiv.org/abs/2106.09685. A Keras layer computes with `kernel + alpha / rank * a @ b`, and
trains only a and b.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfbig import _private_api

_KEYS = ("lora_rank", "lora_alpha")
_ADAPTED = ("kernel", "embeddings")


def adapted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that have adapters, including layers nested in others."""
    layers = _private_api.flatten_layers(model)
    return [layer for layer in layers if getattr(layer, "lora_enabled", False)]


def adapter_factors(layer: keras.layers.Layer) -> tuple[keras.Variable, keras.Variable]:
    """The factors a and b of a layer that has adapters."""
    names = ("a", "b")
    found = {
        end: variable
        for variable in layer.weights
        for end in names
        if variable.name in (f"lora_kernel_{end}", f"lora_embeddings_{end}")
    }
    return found["a"], found["b"]


def adapted_weight(layer: keras.layers.Layer) -> keras.Variable:
    """The weight that a layer's adapters are added to: its kernel or its embeddings."""
    return next(variable for variable in layer.weights if variable.name in _ADAPTED)


def merged_value(layer: keras.layers.Layer) -> np.ndarray:
    """The sum of a layer's weight and its adapters, computed in float32, in the weight's dtype."""
    weight, (a, b) = adapted_weight(layer), adapter_factors(layer)
    base, a, b = (np.asarray(v.numpy(), np.float32) for v in (weight, a, b))
    merged = base + np.float32(layer.lora_alpha / layer.lora_rank) * (a @ b)
    return merged.astype(weight.numpy().dtype)


def merged_weights(model: keras.Model) -> list[np.ndarray]:
    """The weights with which the model without adapters computes the same outputs."""
    merged, left_out = {}, set()
    for layer in adapted_layers(model):
        merged[id(adapted_weight(layer))] = merged_value(layer)
        left_out |= {id(variable) for variable in adapter_factors(layer)}
    return [
        merged[id(variable)] if id(variable) in merged else variable.numpy()
        for variable in model.weights
        if id(variable) not in left_out
    ]


def without_adapters(config: Any) -> Any:
    """Removes the arguments of adapters from a layer's config, also in nested configs."""
    if isinstance(config, dict):
        return {k: without_adapters(v) for k, v in config.items() if k not in _KEYS}
    if isinstance(config, (list, tuple)):
        return type(config)(map(without_adapters, config))
    return config


def copy_adapters(model: keras.Model, copy: keras.Model) -> None:
    """Enables adapters in a built copy of a model where the model has them.

    Raises:
        ValueError: the copy has different layers.
    """
    adapted = adapted_layers(model)
    if not adapted:
        return
    pairs = list(zip(_with_inner(model), _with_inner(copy), strict=True))
    for layer, twin in pairs:
        if layer in adapted:
            twin.enable_lora(layer.lora_rank, layer.lora_alpha)


@contextlib.contextmanager
def factored_adapters(model: keras.Model) -> Iterator[None]:
    """Computes Dense layers with adapters as `x @ kernel + alpha / rank * (x @ a) @ b`.

    Keras adds a @ b to the kernel first. The gradient of that sum has the size of the kernel, and
    costs a third of the work of training it.
    """
    layers = [
        layer
        for layer in adapted_layers(model)
        if type(layer) is keras.layers.Dense and layer.quantization_mode is None
    ]
    for layer in layers:
        layer.call = functools.partial(_factored_call, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _factored_call(layer: keras.layers.Dense, inputs, training=None):
    del training
    a, b = adapter_factors(layer)
    x = keras.ops.matmul(inputs, adapted_weight(layer))
    update = keras.ops.matmul(keras.ops.matmul(inputs, a), b)
    x = keras.ops.add(x, (layer.lora_alpha / layer.lora_rank) * update)
    if layer.bias is not None:
        x = keras.ops.add(x, layer.bias)
    return x if layer.activation is None else layer.activation(x)


def _with_inner(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return _private_api.flatten_layers(layer)


def direct_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """A layer's weights without those of its nested layers."""
    inner = {
        id(weight) for other in _with_inner(layer) if other is not layer for weight in other.weights
    }
    return [weight for weight in layer.weights if id(weight) not in inner]
