"""State of preprocessing layers besides weights: vocabularies, boundaries, files, statistics.

`get_config` does not contain what `adapt` or `set_vocabulary` has set, and `set_weights` does not
fill lookup tables.
"""

import hashlib
import tempfile
from typing import Any

import keras
import numpy as np

from tfbig import _private_api

# The name of the checksums in `Program.settings`, which is part of checkpoints.
STATE = "vocabularies or boundaries (class, size, check sum)"

_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup)


def copy_preprocessing_state(model: keras.Model, copy: keras.Model) -> None:
    """Copies state besides weights to a built copy of a model, whose weights are already set.

    Raises:
        ValueError: the copy has different layers.
    """
    layers, twins = (_private_api.flatten_layers(one) for one in (model, copy))
    if any(map(_has_state, layers)):
        if [type(layer) for layer in layers] != [type(twin) for twin in twins]:
            raise ValueError("its config creates different layers")
        for layer, twin in zip(layers, twins, strict=True):
            if isinstance(layer, _LOOKUPS):
                _copy_vocabulary(layer, twin)
            elif _has_state(layer):
                _copy_assets(layer, twin)
    refresh_constants(copy)


def refresh_constants(model: keras.Model) -> None:
    """Updates what layers derive from their weights, after these were set.

    Normalization has constants that it computes from the weights for mean and variance.
    """
    for layer in _private_api.flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def preprocessing_checksums(model: keras.Model) -> list[list]:
    """The class, size and checksum of the vocabulary or boundaries of each layer that has some.

    With other vocabularies or boundaries the same weights would compute something else.

    Returns:
        JSON types; [] for a model without such layers.
    """
    checksums = []
    for layer in _private_api.flatten_layers(model):
        if isinstance(layer, _LOOKUPS):
            values = layer.get_vocabulary()
            text = "\0".join(map(str, values))
            if layer.output_mode == "tf_idf":
                text += str(np.asarray(getattr(layer, "idf_weights_const", ())).tolist())
        elif isinstance(layer, keras.layers.Discretization):
            values = layer.bin_boundaries or []
            text = str(np.asarray(values, np.float32).tolist())
        else:
            continue
        checksum = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        checksums.append([type(layer).__name__, len(values), checksum])
    return checksums


def _has_state(layer: keras.layers.Layer) -> bool:
    """Whether Keras saves more of a layer than its config and its weights."""
    if isinstance(layer, keras.layers.TextVectorization):
        return False  # its inner StringLookup has the vocabulary
    return isinstance(layer, _LOOKUPS) or hasattr(layer, "load_assets")


def _copy_vocabulary(layer: Any, twin: Any) -> None:
    words = layer.get_vocabulary(include_special_tokens=False)
    if not words:
        return
    weighs = layer.output_mode == "tf_idf"
    weights = np.asarray(layer.idf_weights_const) if weighs else None
    if words != twin.get_vocabulary(include_special_tokens=False):
        first = len(layer.get_vocabulary()) - len(words)  # after the tokens for unknown words
        some = {"idf_weights": weights[first : first + len(words)]} if weighs else {}
        twin.set_vocabulary(words, **some)
    if weighs:  # includes the weights of unknown words
        twin.load_own_variables({"idf_weights": weights})


def _copy_assets(layer: keras.layers.Layer, twin: keras.layers.Layer) -> None:
    """Copies state through the asset files of Keras's saving, such as those of a tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        twin.load_assets(folder)
