"""One function for every file or folder that a trained model may come in."""

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
    """Loads a trained model, whatever it was saved as.

    Example:

        model = load_model("pretrained.keras")
        model = load_model("old_model.h5", custom_objects={"Attention": Attention})
        model = load_model("runs/digits", base_model_fn=build_model)

    Args:
        pretrained: a keras.Model (returned as it is), or the path of

            - a `.keras` file;
            - an `.h5` file of Keras 3 or of tf.keras, compiled as it was where that can be told;
            - a SavedModel's folder: its signature's graph becomes one layer, which is trained if
              gradients reach its variables, else frozen; the log says which;
            - a KerasHub preset: a folder that save_to_preset has written, or the name or handle
              of one to download, "hub:bert_tiny_en_uncased", "hf://user/name" or
              "kaggle://user/model/keras/name"; with `pip install "tfbig[hub]"`;
            - with base_model_fn: a `.weights.h5` file, the prefix of a tf.train.Checkpoint (or a
              folder of such), or a tfbig model_dir, whose newest checkpoint is taken.
        base_model_fn: `base_model_fn()` or `base_model_fn(params)`, returns a built model of the
            architecture that the weights belong to; compile it for the optimizer's state too.
        params: handed to base_model_fn if it asks for it.
        safe_mode: refuses what would run code from the file: Lambda layers of bytecode, graphs
            that reach files or Python functions. False only for files that you trust.
        custom_objects: your own classes and functions by name.

    Returns:
        The model, in no strategy's scope.

    Raises:
        UserError: there is no such file, it is damaged, of another kind, or refused; or it holds
            weights alone and base_model_fn is missing or builds another model.
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
            f"{path} holds weights and no architecture; pass base_model_fn=, the function that "
            "builds the model which they belong to."
        )
    model = KerasBuilder(base_model_fn, params, "float32").build(lambda variable: True)
    fill(model, path)
    return model


def _without_merged_adapters(model: keras.Model) -> keras.Model:
    """Keras merges adapters (LoRA) when it saves, and loads layers with new ones that are all 0.

    Those would stay 0 for ever, and what they are added to is frozen.
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
        raise UserError(f"{path} is part of a checkpoint; write {path.removesuffix('.index')!r}.")
    if path.endswith("saved_model.pb"):
        raise UserError(f"{path} is part of a SavedModel; give its folder.")
    if path.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin")):
        kind = "a pickle"
    if kind == "a pickle":
        raise UserError(
            f"{path} is refused: it is a pickle, which runs code when it is opened. Save the "
            "model as .keras where it was trained."
        )
    what = "a NumPy archive" if kind == "zip" else kind
    raise UserError(
        f"{path} is {what} and no model; expected a .keras or .h5 file, a SavedModel's folder, or "
        "weights with base_model_fn."
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
        f"{path} is a folder that holds no model ({held}); expected a SavedModel's folder "
        "(saved_model.pb), a tfbig model_dir (checkpoints/ckpt-…), a folder of checkpoints, or a "
        "preset of KerasHub (config.json)."
    )
