"""Low-rank adapters (LoRA): adds them to a model, saves them to a file, loads them again.

Hu et al., "LoRA: Low-rank adaptation of large language models", 2021,
https://arxiv.org/abs/2106.09685.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.finetuning.head import new_head_of, with_head
from tfbig.finetuning.layers import matching
from tfbig.finetuning.recipe import REGRESSION
from tfbig.programs.keras.adapters import adapted_layers, adapter_factors, direct_weights
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt_uncompiled

_FORMAT = "tfbig adapters 1"
_ABOUT = "about"


def add_adapters(
    layers: Sequence[keras.layers.Layer],
    rank: int,
    alpha: float | None = None,
    patterns: str | Sequence[str] | None = None,
) -> list[keras.layers.Layer]:
    """Adds adapters to layers; they have no effect until they are trained.

    Args:
        layers: built layers; their inner layers are included.
        rank: rank of the adapters.
        alpha: the product of the adapters is multiplied by alpha / rank; None: alpha = rank.
        patterns: patterns of names or paths of layers, such as "*attention/qkv"; None: all Dense
            and EinsumDense layers.

    Returns:
        The layers with adapters.

    Raises:
        UserError: no layer matches, or a layer cannot have adapters.
    """
    inner = [each for layer in layers for each in _private_api.flatten_layers(layer)]
    inner = [layer for n, layer in enumerate(inner) if layer not in inner[:n]]
    if patterns is not None:
        chosen = matching([x for x in inner if x.weights], patterns, "Recipe.lora_layers")
        for layer in chosen:
            if not hasattr(layer, "enable_lora"):
                raise UserError(
                    f"Recipe.lora_layers: {layer.name!r} is a {type(layer).__name__}, which cannot "
                    "have adapters; Dense, EinsumDense, Embedding and convolutions can."
                )
    else:
        kinds = (keras.layers.Dense, keras.layers.EinsumDense)
        chosen = [layer for layer in inner if isinstance(layer, kinds)]
    if not chosen:
        raise UserError(
            f"Recipe.lora_rank={rank}: the model has no Dense or EinsumDense layer for adapters; "
            "pass lora_layers=[names of other layers], or omit lora_rank."
        )
    for layer in chosen:
        try:
            layer.enable_lora(rank, lora_alpha=alpha)
        except (ValueError, NotImplementedError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"Recipe.lora_rank: the layer {layer.name!r}: {reason}") from error
    return chosen


def freeze(layer: keras.layers.Layer) -> None:
    """Freezes a layer except for its adapters; without adapters, its statistics are frozen too."""
    adapted = adapted_layers(layer)
    if not adapted:
        layer.trainable = False
        return
    kept = {id(variable) for each in adapted for variable in adapter_factors(each)}
    for each in _private_api.flatten_layers(layer):
        if not adapted_layers(each):
            each.trainable = False
    for variable in layer.weights:
        if id(variable) not in kept:
            variable.trainable = False


def save_adapters(model: keras.Model, path: str | os.PathLike) -> str:
    """Saves the trained weights of a model with adapters: the adapters, and a new head.

    Example:

        tuned = tfbig.fine_tune("base.keras", input_fn, recipe=tfbig.Recipe(lora_rank=8))
        save_adapters(tuned.model, "prose.npz")  # a few hundred kB
        model = load_adapters(load_model("base.keras"), "prose.npz")

    Args:
        model: a model with adapters; all of its trained weights are saved.
        path: path of the file, a NumPy archive without pickled objects; it is replaced atomically.

    Returns:
        The path.

    Raises:
        UserError: the model has no adapters, or the file cannot be written.
    """
    path = os.fspath(path)
    adapted = adapted_layers(model)
    if not adapted:
        raise UserError(
            f"save_adapters: the model {model.name!r} has no adapters; tune it with "
            "recipe=tfbig.Recipe(lora_rank=8), or save it as .keras."
        )
    layers, tuned = _private_api.flatten_layers(model), _tuned(model)
    about = {
        "format": _FORMAT,
        "head": new_head_of(model),
        "layers": {
            n: [layer.lora_rank, layer.lora_alpha]
            for n, layer in enumerate(layers)
            if layer in adapted
        },
        "base": _fingerprint(model, tuned),
    }
    trained = {f"{n} {model.weights[n].path}": model.weights[n].numpy() for n in sorted(tuned)}
    beside = f"{path}.tmp-{os.getpid()}"
    try:
        with open(beside, "wb") as file:
            np.savez(file, allow_pickle=False, **{_ABOUT: np.array(json.dumps(about))}, **trained)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"save_adapters: {path!r} cannot be written: {error.strerror}.") from error
    finally:
        if os.path.exists(beside):
            os.remove(beside)
    return path


def load_adapters(base: keras.Model, path: str | os.PathLike) -> keras.Model:
    """Loads saved adapters into a copy of the model that they were trained on.

    Example: see `save_adapters`.

    Args:
        base: the model with the weights from which the tuning started; it is not changed.
        path: a file that `save_adapters` wrote.

    Returns:
        A new model, not compiled, with the predictions of the tuned model.

    Raises:
        UserError: the file is damaged or another kind of file, or its adapters belong to another
            model.
    """
    path = os.fspath(path)
    about, arrays = _read(path)
    try:
        model = rebuilt_uncompiled(base, merge_adapters=True)
    except CANNOT_BE_REBUILT as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"load_adapters: {type(base).__name__} cannot be rebuilt from its get_config "
            f"({reason}); write one that returns all of its arguments."
        ) from error
    if about["head"] is not None:
        model = with_head(model, about["head"])
    layers = _private_api.flatten_layers(model)
    for n, (rank, alpha) in about["layers"].items():
        layer = layers[int(n)] if int(n) < len(layers) else None
        if not hasattr(layer, "enable_lora"):
            raise UserError(f"{path}: {_OTHER}")
        layer.enable_lora(rank, lora_alpha=alpha)
    for n, variable in enumerate(model.weights):
        if n not in arrays:
            variable.trainable = False
        elif arrays[n].shape != tuple(variable.shape):
            raise UserError(f"{path}: {_OTHER}")
        else:
            variable.assign(arrays[n])
    there = all(n < len(model.weights) for n in arrays)
    if not there or _fingerprint(model, set(arrays)) != about["base"]:
        raise UserError(f"{path}: {_OTHER}")
    return model


_OTHER = (
    "these adapters were trained on another model, or on other weights; pass the base model as it "
    "was before it was tuned."
)


def _read(path: str) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """The metadata of the file, and its arrays by the index of their weight."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise ValueError("it is compressed")  # and may be larger than it looks
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file[_ABOUT]))
            if about["format"] != _FORMAT:
                raise ValueError(f"its format is {about['format']!r}")
            keys = [key for key in file.files if key != _ABOUT]
            arrays = {int(key.split()[0]): file[key] for key in keys}
        _check_about(about, arrays)
        return about, arrays
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'it cannot be read'}.") from error
    except _DAMAGED as error:
        raise UserError(
            f"{path} is not a file of adapters, or damaged ({str(error) or type(error).__name__}); "
            "pass a file that save_adapters wrote."
        ) from error


# The errors of zipfile, NumPy and json for damaged files.
_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def _check_about(about: dict[str, Any], arrays: dict[int, np.ndarray]) -> None:
    """Raises a ValueError for metadata that `save_adapters` would not write."""
    head, most = about["head"], sum(array.size for array in arrays.values())
    if head is not None and head != REGRESSION and not 2 <= int(head) <= most:
        raise ValueError(f"its head is {head!r}")
    for rank, alpha in about["layers"].values():
        if not 1 <= int(rank) <= most or not float(alpha) > 0:
            raise ValueError(f"it has adapters of rank {rank!r} and alpha {alpha!r}")
    if not isinstance(about["base"], str):
        raise ValueError("it does not tell its base")


def _tuned(model: keras.Model) -> set[int]:
    """The places of the weights that tuning changes: trained ones and statistics beside them."""
    tuned = {id(weight) for weight in model.trainable_weights}
    for layer in _private_api.flatten_layers(model):
        own = direct_weights(layer)
        if not getattr(layer, "lora_enabled", False) and any(w.trainable for w in own):
            tuned |= {id(weight) for weight in own}
    return {n for n, weight in enumerate(model.weights) if id(weight) in tuned}


def _fingerprint(model: keras.Model, tuned: set[int]) -> str:
    """A hash of the weights that tuning does not change."""
    found = hashlib.sha256()
    for n, weight in enumerate(model.weights):
        if n not in tuned:
            found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()
