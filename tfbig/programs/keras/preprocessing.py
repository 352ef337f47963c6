"""What preprocessing layers hold besides weights: vocabularies, boundaries, files, statistics.

`get_config` leaves out what `adapt` or `set_vocabulary` has set, and `set_weights` sets no table.
"""

import hashlib
import tempfile
from typing import Any

import keras
import numpy as np

from tfbig import _private_api

STATE = "vocabularies or boundaries (class, size, check sum)"  # its name among settings

_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup)
_RECURRENT = (keras.layers.LSTM, keras.layers.GRU)  # whose cuDNN kernels XLA cannot compile


def give_same_state(model: keras.Model, copy: keras.Model) -> None:
    """Gives a built copy of a model, whose weights are set, what else its layers hold.

    Raises:
        ValueError: the copy has other layers.
    """
    layers, twins = (_private_api.flatten_layers(one) for one in (model, copy))
    if any(map(_has_state, layers)):
        if [type(layer) for layer in layers] != [type(twin) for twin in twins]:
            raise ValueError("its config makes other layers than it has")
        for layer, twin in zip(layers, twins, strict=True):
            if isinstance(layer, _LOOKUPS):
                _give_vocabulary(layer, twin)
            elif _has_state(layer):
                _give_files(layer, twin)
    settle(copy)


def settle(model: keras.Model) -> None:
    """Has layers compute with the values that their weights were just given.

    Normalization keeps its mean and variance as constants beside its weights.
    """
    for layer in _private_api.flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def described_state(model: keras.Model) -> list[list]:
    """The class, size and check sum of what each layer has learned that is no weight.

    With other vocabularies or boundaries the same weights would mean something else. As JSON has
    it; [] for a model without such layers.
    """
    described = []
    for layer in _private_api.flatten_layers(model):
        if isinstance(layer, _LOOKUPS):
            held = layer.get_vocabulary()
            text = "\0".join(map(str, held))
            if layer.output_mode == "tf_idf":
                text += str(np.asarray(getattr(layer, "idf_weights_const", ())).tolist())
        elif isinstance(layer, keras.layers.Discretization):
            held = layer.bin_boundaries or []
            text = str(np.asarray(held, np.float32).tolist())
        else:
            continue
        sum_ = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        described.append([type(layer).__name__, len(held), sum_])
    return described


def layer_without_xla(model: keras.Model) -> str | None:
    """The class of a layer that says that XLA cannot compile it, or None."""
    for layer in _private_api.flatten_layers(model):
        if not getattr(layer, "supports_jit", True) and not isinstance(layer, _RECURRENT):
            return type(layer).__name__
    return None


def _has_state(layer: keras.layers.Layer) -> bool:
    """Whether Keras saves more of a layer than its config and its weights."""
    if isinstance(layer, keras.layers.TextVectorization):
        return False  # the StringLookup in it has it
    return isinstance(layer, _LOOKUPS) or hasattr(layer, "load_assets")


def _give_vocabulary(layer: Any, twin: Any) -> None:
    words = layer.get_vocabulary(include_special_tokens=False)
    if not words:
        return
    weighs = layer.output_mode == "tf_idf"
    weights = np.asarray(layer.idf_weights_const) if weighs else None
    if words != twin.get_vocabulary(include_special_tokens=False):
        first = len(layer.get_vocabulary()) - len(words)  # after those of unknown words
        some = {"idf_weights": weights[first : first + len(words)]} if weighs else {}
        twin.set_vocabulary(words, **some)
    if weighs:  # those of unknown words too
        twin.load_own_variables({"idf_weights": weights})


def _give_files(layer: keras.layers.Layer, twin: keras.layers.Layer) -> None:
    """By the files that Keras would save the layer's state to, as those of a tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        twin.load_assets(folder)
