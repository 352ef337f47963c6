"""Loads a trained model from any supported file or folder."""

import logging
import os
from collections.abc import Callable
from typing import Any

import keras

from tfbig.errors import UserError
from tfbig.finetuning import saved_models
from tfbig.finetuning.archives import kind_of
from tfbig.finetuning.hub import is_handle, is_preset, load_preset
from tfbig.finetuning.keras_files import load_h5, load_keras
from tfbig.finetuning.weights import checkpoint_prefix, fill, is_checkpoint, newest_checkpoint
from tfbig.programs.keras.adapters import adapted_layers
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.keras.rebuilding import rebuilt, rebuilt_uncompiled

log = logging.getLogger("tfbig")


def load_model(
    pretrained: keras.Model | str | os.PathLike,
    *,
    base_model_fn: Callable | None = None,
    params: Any = None,
    safe_mode: bool = True,
    custom_objects: dict[str, Any] | None = None,
) -> keras.Model:
    """Loads a trained model from any supported format.

    Example:

        model = load_model("pretrained.keras")
        model = load_model("old_model.h5", custom_objects={"Attention": Attention})
        model = load_model("runs/digits", base_model_fn=build_model)

    Args:
        pretrained: a keras.Model (returned unchanged), or the path of

            - a `.keras` file;
            - an `.h5` file of Keras 3 or of tf.keras, with its compile state if possible;
            - the folder of a SavedModel: the graph of its signature becomes one layer, which is
              trained if gradients reach its variables, else frozen; the log says which;
            - a KerasHub preset: a folder that save_to_preset wrote, or the name or handle of a
              preset to download, "hub:bert_tiny_en_uncased", "hf://user/name" or
              "kaggle://user/model/keras/name"; needs `pip install "tfbig[hub]"`;
            - with base_model_fn: a `.weights.h5` file, the prefix of a tf.train.Checkpoint (or a
              folder of checkpoints), or a tfbig model_dir, whose newest checkpoint is used.
        base_model_fn: `base_model_fn()` or `base_model_fn(params)`, which returns a built model
            with the architecture of the weights; a compiled model gets the optimizer state too.
        params: passed to base_model_fn if it takes it.
        safe_mode: raises an error for files that would run code: Lambda layers of bytecode, graphs
            that access files or Python functions. False only for files that you trust.
        custom_objects: your own classes and functions by name.

    Returns:
        The model, outside of any strategy's scope.

    Raises:
        UserError: the file does not exist, is damaged, has another format, or is unsafe; or it
            holds only weights and base_model_fn is missing or builds another model.
    """
    if isinstance(pretrained, keras.Model):
        return pretrained
    if not isinstance(pretrained, (str, os.PathLike)) or not os.fspath(pretrained):
        raise UserError(
            f"pretrained={pretrained!r}: expected a keras.Model or the path of a saved one."
        )
    path = os.fspath(pretrained)
    if is_handle(path):
        model = load_preset(path, safe_mode, custom_objects)
    elif os.path.isdir(path):
        model = _from_folder(path, safe_mode, custom_objects)
    elif os.path.exists(path) and not is_checkpoint(path):
        model = _from_file(path, safe_mode, custom_objects)
    elif checkpoint_prefix(path):
        model = None
    else:
        raise UserError(f"pretrained={path!r}: there is no such file, folder or checkpoint.")
    if model is not None:
        if base_model_fn is not None:
            log.info("%s holds a whole model; base_model_fn is not needed for it.", path)
        return _without_merged_adapters(model)
    if base_model_fn is None:
        raise UserError(
            f"{path} holds weights without an architecture; pass base_model_fn=, a function that "
            "builds their model."
        )
    model = KerasBuilder(base_model_fn, params, "float32").build(lambda variable: True)
    fill(model, path)
    return model


def _without_merged_adapters(model: keras.Model) -> keras.Model:
    """Removes new adapters from a loaded model.

    Keras merges adapters (LoRA) when it saves a model, but loads it with new adapters that are 0
    and with frozen weights, which training could not change.
    """
    if not adapted_layers(model):
        return model
    rebuild = rebuilt if model.compiled else rebuilt_uncompiled
    return rebuild(model, merge_adapters=True)


def _from_file(path: str, safe_mode: bool, custom_objects: dict | None) -> keras.Model | None:
    kind = kind_of(path)
    if kind == "zip" and not path.endswith((".npz", ".pt", ".pth", ".bin")):
        return load_keras(path, safe_mode, custom_objects)
    if kind == "hdf5":
        return load_h5(path, safe_mode, custom_objects)
    if path.endswith(".index"):
        raise UserError(f"{path} is part of a checkpoint; pass {path.removesuffix('.index')!r}.")
    if path.endswith("saved_model.pb"):
        raise UserError(f"{path} is part of a SavedModel; pass its folder.")
    if path.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin")):
        kind = "a pickle"
    if kind == "a pickle":
        raise UserError(
            f"{path} is refused: it is a pickle, which runs code when it is opened. Save the "
            "model as .keras where it was trained."
        )
    what = "a NumPy archive" if kind == "zip" else kind
    raise UserError(
        f"{path} is {what}, not a model; expected a .keras or .h5 file, the folder of a "
        "SavedModel, or weights with base_model_fn."
    )


def _from_folder(path: str, safe_mode: bool, custom_objects: dict | None) -> keras.Model | None:
    if saved_models.is_saved_model(path):
        return saved_models.load_saved_model(path, safe_mode)
    if newest_checkpoint(path) or checkpoint_prefix(path):
        return None
    if is_preset(path):
        return load_preset(path, safe_mode, custom_objects)
    held = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
    raise UserError(
        f"{path} is a folder without a model ({held}); expected the folder of a SavedModel "
        "(saved_model.pb), a tfbig model_dir (checkpoints/ckpt-…), a folder of checkpoints, or a "
        "preset of KerasHub (config.json)."
    )
