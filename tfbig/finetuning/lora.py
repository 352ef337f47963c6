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
from tfbig.programs.adapters import adapted_layers, adapters_of
from tfbig.programs.rebuilding import rebuilt_uncompiled

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
    kept = {id(variable) for each in adapted for variable in adapters_of(each)}
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
    layers = _private_api.flatten_layers(model)
    about = {
        "format": _FORMAT,
        "head": new_head_of(model),
        "layers": {
            n: [layer.lora_rank, layer.lora_alpha]
            for n, layer in enumerate(layers)
            if layer in adapted
        },
        "base": _fingerprint(model),
    }
    trained = {
        f"{n} {variable.path}": variable.numpy()
        for n, variable in enumerate(model.weights)
        if variable.trainable
    }
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
    model = rebuilt_uncompiled(base, merge_adapters=True)
    if about["head"] is not None:
        model = with_head(model, about["head"])
    layers = _private_api.flatten_layers(model)
    for n, (rank, alpha) in about["layers"].items():
        layer = layers[int(n)] if int(n) < len(layers) else None
        if not hasattr(layer, "enable_lora"):
            raise UserError(f"{path}: {_OTHER}")
        layer.enable_lora(rank, lora_alpha=alpha)
    for n, variable in enumerate(model.weights):
        variable.trainable = n in arrays
        if n in arrays:
            if arrays[n].shape != tuple(variable.shape):
                raise UserError(f"{path}: {_OTHER}")
            variable.assign(arrays[n])
    if len(arrays) != len(model.trainable_weights) or _fingerprint(model) != about["base"]:
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
            return about, {int(key.split()[0]): file[key] for key in keys}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'it cannot be read'}.") from error
    except (ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is no file of adapters, or damaged ({str(error) or type(error).__name__}); "
            "give what save_adapters has written."
        ) from error


def _fingerprint(model: keras.Model) -> str:
    """Of the weights that are not trained."""
    found = hashlib.sha256()
    for weight in model.weights:
        if not weight.trainable:
            found.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return found.hexdigest()
