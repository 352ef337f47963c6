"""Low-rank adapters (LoRA): put on a model, kept in a file of their own, put on its base again.

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
    """Gives layers adapters, which change nothing until they are trained.

    Args:
        layers: built; the layers inside of them count too.
        rank: of the adapters.
        alpha: the adapters' product is multiplied by alpha / rank; None: alpha = rank.
        patterns: of the layers' names or paths, as "*attention/qkv"; None: all Dense and
            EinsumDense layers.

    Returns:
        The layers that have got adapters.

    Raises:
        UserError: there is no such layer, or one of them cannot have adapters.
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
            f"Recipe.lora_rank={rank}: the model has no Dense or EinsumDense layer to give "
            "adapters to; write lora_layers=[names of other layers], or leave lora_rank out."
        )
    for layer in chosen:
        try:
            layer.enable_lora(rank, lora_alpha=alpha)
        except (ValueError, NotImplementedError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"Recipe.lora_rank: the layer {layer.name!r}: {reason}") from error
    return chosen


def freeze(layer: keras.layers.Layer) -> None:
    """Freezes a layer but for the adapters in it; one without any with its statistics."""
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
    """Writes what was trained of a model with adapters: these, and its new head if it has one.

    Example:

        tuned = tfbig.fine_tune("base.keras", input_fn, recipe=tfbig.Recipe(lora_rank=8))
        save_adapters(tuned.model, "prose.npz")  # a few hundred kB
        model = load_adapters(load_model("base.keras"), "prose.npz")

    Args:
        model: with adapters; all of its weights that are trained are written.
        path: a file's, written beside and renamed. A NumPy archive without pickled objects.

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
    """Puts saved adapters on the model that they were trained on.

    Example: see `save_adapters`.

    Args:
        base: with the weights that it had when it was tuned; it stays as it is.
        path: what `save_adapters` has written.

    Returns:
        A new model, not compiled, that predicts as the tuned one did.

    Raises:
        UserError: the file is no such file or damaged, or the adapters are another model's.
    """
    path = os.fspath(path)
    about, arrays = _read(path)
    try:
        model = rebuilt_uncompiled(base, merge_adapters=True)
    except CANNOT_BE_REBUILT as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"load_adapters: {type(base).__name__} cannot be made again from its get_config "
            f"({reason}); give it one that tells all of its arguments."
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
    "these adapters were trained on another model, or on other weights; give the base model as it "
    "was before it was tuned."
)


def _read(path: str) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """What the file tells of itself, and its arrays by the place of their weight."""
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
            f"{path} is no file of adapters, or damaged ({str(error) or type(error).__name__}); "
            "give what save_adapters has written."
        ) from error


# What zipfile, NumPy and json raise over bytes that are not what they seem.
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
    """Raises a ValueError for what would build another model than a tuned one."""
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
    """Of the weights that tuning does not change."""
    found = hashlib.sha256()
    for n, weight in enumerate(model.weights):
        if n not in tuned:
            found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()
