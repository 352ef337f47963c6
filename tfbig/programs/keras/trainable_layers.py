"""Which layers of a model are trained, from which step, and with which learning rate."""

import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras

from tfbig import _private_api
from tfbig.programs.keras.adapters import direct_weights


class Tuning(NamedTuple):
    """How the variables of one model are trained.

    Attributes:
        rates: factors of the optimizer's updates, by path of the variable. The default is 1.
        unfreeze: (step, layers) in ascending order of steps. The layers are frozen before the
            global step `step`, and trained from there on.
    """

    rates: Mapping[str, float] = {}
    unfreeze: Sequence[tuple[int, Sequence[keras.layers.Layer]]] = ()


_of_models: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def attach(model: keras.Model, tuning: Tuning) -> None:
    """Attaches a Tuning to a model. Every training by tfbig follows it."""
    _of_models[model] = tuning


def tuning_of(model: keras.Model) -> Tuning:
    """Returns the Tuning that is attached to a model, or the default one."""
    return _of_models.get(model, Tuning())


def copy_trainable_flags(model: keras.Model, copy: keras.Model) -> None:
    """Copies the `trainable` flags of all layers and weights of a model to a copy of it.

    A config contains the flag of a layer, but not those of its weights, nor those of layers inside
    a subclassed model or a nested layer. The flags of layers matter because a frozen
    BatchNormalization uses its moving statistics also in training.

    Args:
        model: the original.
        copy: with the same layers in the same order.

    Raises:
        ValueError: the copy has different layers, or different weights are still trained in it.
    """
    layers, twins = (_private_api.flatten_layers(each) for each in (model, copy))
    if [type(layer) for layer in layers] != [type(twin) for twin in twins]:
        raise ValueError(
            f"its config creates {len(twins)} layers that differ from its own {len(layers)}, so "
            "it is unknown which of them are trained"
        )
    for layer, twin in zip(layers, twins, strict=True):
        _private_api.set_trainable_flag(twin, layer.trainable)
    for layer, twin in zip(layers, twins, strict=True):
        flags = [weight.trainable for weight in direct_weights(layer)]
        weights = direct_weights(twin)
        if len(weights) != len(flags):
            if len(set(flags)) > 1:
                raise ValueError(
                    f"its config creates the layer {layer.name!r} with {len(weights)} weights, it "
                    f"has {len(flags)}, and only some of these are trained"
                )
            flags = flags[:1] * len(weights)  # a table may have other shards in the copy
        for weight, flag in zip(weights, flags, strict=True):
            weight.trainable = flag
    if len(model.weights) == len(copy.weights) and _trained(copy) != _trained(model):
        raise ValueError("different weights are trained in a copy with the same `trainable` flags")


def _trained(model: keras.Model) -> list[bool]:
    trained = {id(weight) for weight in model.trainable_weights}
    return [id(weight) in trained for weight in model.weights]
