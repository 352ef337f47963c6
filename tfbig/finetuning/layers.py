"""Selects the layers with weights of a model, by order and by name."""

import fnmatch
from collections.abc import Sequence

import keras

from tfbig.errors import UserError

_SHOWN = 12


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights, from the input to the output, including those of nested models."""
    found: list[keras.layers.Layer] = []
    for layer in model.layers:
        nested = weighted_layers(layer) if isinstance(layer, keras.Model) else []
        found += nested or ([layer] if layer.weights else [])
    return [layer for n, layer in enumerate(found) if layer not in found[:n]]  # shared ones once


def matching(
    layers: Sequence[keras.layers.Layer], patterns: str | Sequence[str], field: str
) -> list[keras.layers.Layer]:
    """The layers whose names, or paths ("block_0/qkv"), match any of the patterns.

    Raises:
        UserError: a pattern matches no layer; the message lists the layers.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found: list[keras.layers.Layer] = []
    for pattern in patterns:
        these = [layer for layer in layers if _matches(layer, pattern)]
        if not these:
            names = [layer.name for layer in layers]
            more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
            raise UserError(
                f"{field}={pattern!r} matches no layer; there are: {', '.join(names[:_SHOWN])}"
                f"{more}."
            )
        found += [layer for layer in these if layer not in found]
    return found


def _matches(layer: keras.layers.Layer, pattern: str) -> bool:
    paths = {weight.path.rpartition("/")[0] for weight in layer.weights}
    names = [layer.name, *(paths if len(paths) == 1 else ())]  # several: it has inner layers
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
