"""Which layers and weights of a model are trained, carried over to a copy of it."""

import keras

from tfbig import _private_api
from tfbig.programs.keras.adapters import own_weights


def copy_trainable_flags(model: keras.Model, copy: keras.Model) -> None:
    """Gives every layer and every weight of a copy the `trainable` of the original's.

    A config tells it of a layer alone: not of its weights, nor of the layers inside a subclassed
    model or a layer of layers. The flags of layers matter by themselves, because a frozen
    BatchNormalization uses its moving statistics in training too.

    Args:
        model: whose flags are taken.
        copy: of the same layers in the same order.

    Raises:
        ValueError: the copy has other layers, or other weights are trained in it even so.
    """
    layers, twins = (_private_api.flatten_layers(each) for each in (model, copy))
    if [type(layer) for layer in layers] != [type(twin) for twin in twins]:
        raise ValueError(
            f"its config makes {len(twins)} layers that are not the same as its own "
            f"{len(layers)}, so it cannot be told which of them are trained"
        )
    for layer, twin in zip(layers, twins, strict=True):
        _private_api.set_own_trainable(twin, layer.trainable)
    for layer, twin in zip(layers, twins, strict=True):
        mine, its = own_weights(layer), own_weights(twin)
        flags = [weight.trainable for weight in mine]
        if len(its) != len(flags):
            if len(set(flags)) > 1:
                raise ValueError(
                    f"its config makes the layer {layer.name!r} with {len(its)} weights, it has "
                    f"{len(flags)}, and only some of these are trained"
                )
            flags = flags[:1] * len(its)  # one table may lie in other shards in the copy
        for other, flag in zip(its, flags, strict=True):
            other.trainable = flag
    if len(model.weights) == len(copy.weights) and _trained(copy) != _trained(model):
        raise ValueError("other weights are trained in a copy with the same `trainable` flags")


def _trained(model: keras.Model) -> list[bool]:
    trained = {id(weight) for weight in model.trainable_weights}
    return [id(weight) in trained for weight in model.weights]
