"""Loads KerasHub presets: folders that `save_to_preset` wrote, and handles to download."""

import contextlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from tfbig import _private_api
from tfbig._optional import load
from tfbig.errors import UserError
from tfbig.finetuning.archives import check_no_bytecode, json_of, most_bytes, reason_of
from tfbig.finetuning.keras_files import bounded_variables, cannot_be_loaded, opened_hdf5

log = logging.getLogger("tfbig")

_CONFIG, _TASK, _SHARDS = "config.json", "task.json", "model.weights.json"
_WEIGHTS, _TASK_WEIGHTS = "model.weights.h5", "task.weights.h5"
# Files of the preprocessor of a task, such as its tokenizer.
_OTHERS = (
    "preprocessor.json",
    "tokenizer.json",
    "image_converter.json",
    "audio_converter.json",
    "video_converter.json",
)
_BUILT_IN = "hub:"
_SCHEMES = ("hf://", "kaggle://", "modelscope://")
_TRY = (
    'Pass the folder of a preset, or "hub:bert_tiny_en_uncased", "hf://user/name" or '
    '"kaggle://user/model/keras/name" if this machine has access to it.'
)


def is_handle(path: str) -> bool:
    """Whether a path is the name of a preset that keras_hub finds or downloads."""
    return path.startswith((_BUILT_IN, *_SCHEMES))


def is_preset(path: str) -> bool:
    """Whether a folder has the files of a preset."""
    return os.path.isfile(os.path.join(path, _CONFIG))


def load_preset(path: str, safe_mode: bool, custom_objects: dict | None) -> keras.Model:
    """Loads the task, or else the backbone, of a preset, as the class that was saved.

    Args:
        path: a folder, or "hub:" and a built-in name, or a handle with a scheme of keras_hub.
        safe_mode: raise an error for classes that are neither in keras or keras_hub nor known.
        custom_objects: your own classes and functions by name.

    Raises:
        UserError: keras_hub is not installed, the preset cannot be downloaded, is damaged or
            unsafe, or is not a preset of KerasHub.
    """
    keras_hub = load("keras_hub", f"{path} is a preset of KerasHub and")

    preset = path.removeprefix(_BUILT_IN)
    if os.path.isdir(preset):
        preset = os.path.abspath(preset)  # keras_hub would treat a plain name as a built-in
    elif not is_handle(preset):
        _check_built_in(path, preset, keras_hub)
    elif preset.startswith("hf://"):
        _check_reachable(path, preset.removeprefix("hf://"))
    try:
        configs, weights = _downloaded(path, preset)
    except UserError:
        raise
    except Exception as error:  # each hub has its own library and errors
        raise UserError(f"{path} cannot be downloaded: {_said(error)}. {_TRY}") from error
    for name, config in configs.items():
        check_no_bytecode(f"{path}/{name}", config, safe_mode)
        if safe_mode:
            _check_classes(path, name, config, custom_objects or {})
    for file in weights.values():
        with opened_hdf5(file):
            pass
    kind: Any = _saved_class(path, configs, keras_hub, custom_objects)
    most = sum(map(most_bytes, weights.values()))
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(keras.saving.custom_object_scope(custom_objects or {}))
            stack.enter_context(bounded_variables(path, most))
            stack.enter_context(warnings.catch_warnings())  # a preset is not compiled
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            if not safe_mode:
                stack.enter_context(_private_api.unsafe_deserialization())
            model = kind.from_preset(preset)
    except Exception as error:  # a file's contents make Keras raise anything
        raise cannot_be_loaded(path, error) from error
    if _TASK in configs and _TASK_WEIGHTS not in weights and model.has_task_weights():
        log.warning("%s has no %s: the layers of the task are new.", path, _TASK_WEIGHTS)
    return model


def _check_built_in(path: str, name: str, keras_hub: Any) -> None:
    if name not in keras_hub.models.Backbone.presets:
        raise UserError(
            f"{path!r}: KerasHub has no built-in preset of this name; "
            f"keras_hub.models.Backbone.presets lists them. {_TRY}"
        )


def _check_reachable(path: str, repository: str) -> None:
    """Sends one request to the Hugging Face Hub; the download would retry for 20 seconds."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(f'{path} needs huggingface_hub; write pip install "huggingface_hub".')
    import huggingface_hub  # heavy, and rarely needed

    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(repository, _CONFIG), str):
            return
        url = huggingface_hub.hf_hub_url(repository, _CONFIG)
        huggingface_hub.get_hf_file_metadata(url, timeout=10)
    except Exception as error:  # of several HTTP libraries
        raise UserError(f"{path} cannot be downloaded: {_said(error)}. {_TRY}") from error


def _said(error: Exception) -> str:
    """The message of an error; for urllib3, the message of its cause, without the retries."""
    cause = re.search(r"\(Caused by \w+\([\"'](?:\w+\(.*?\): )?(.*?)[\"']\)\)$", str(error).strip())
    return reason_of(ValueError(cause[1])) if cause else reason_of(error)


def _downloaded(path: str, preset: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Downloads a preset; returns its configs and the paths of its weights, by file name."""
    configs = {}
    for name in (_CONFIG, _TASK, _SHARDS, *_OTHERS):
        file = _private_api.preset_file(preset, name)
        if file is not None:
            with open(file, "rb") as opened:
                configs[name] = json_of(path, name, opened.read())
            if not isinstance(configs[name], dict):
                raise UserError(f"{path} is damaged: its {name} is not a JSON object.")
    config = configs.get(_CONFIG)
    if config is None:
        raise UserError(f"{path} is not a preset of KerasHub: it has no {_CONFIG}.")
    if "registered_name" not in config:
        raise UserError(
            f"{path} is not a preset that save_to_preset wrote (its {_CONFIG} names no class). "
            "If it is a checkpoint of Transformers or timm, load it with "
            "keras_hub.models.Backbone.from_preset, or that of a task's class, and pass the model."
        )
    shards = configs.pop(_SHARDS, {}).get("weight_map", {})
    weights = {}
    for name in {_WEIGHTS, _TASK_WEIGHTS, *keras.tree.flatten(shards)}:
        if not isinstance(name, str) or os.path.basename(name) != name:
            raise UserError(f"{path} is refused: {name!r} in its {_SHARDS} leads out of it.")
        file = _private_api.preset_file(preset, name)
        if file is not None:
            weights[name] = file
    if not weights.keys() - {_TASK_WEIGHTS}:
        raise UserError(f"{path} holds no weights: it has no {_WEIGHTS}.")
    return configs, weights


def _check_classes(path: str, name: str, config: dict, custom_objects: dict) -> None:
    for item in _dicts_in(config):
        kind, module = item.get("class_name"), item.get("module")
        if not isinstance(kind, str) or not isinstance(module, str):
            continue
        registered = item.get("registered_name") or kind
        known = module.split(".")[0] in ("keras", "keras_hub", "builtins")
        if known or kind in custom_objects:
            continue
        if keras.saving.get_registered_object(registered, custom_objects) is None:
            raise UserError(
                f"{path} is refused: its {name} needs {module}.{kind}, which is neither in "
                f"keras nor in keras_hub. Pass custom_objects={{{kind!r}: …}} if it is yours."
            )


def _dicts_in(config: Any) -> Iterator[dict]:
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _saved_class(path: str, configs: dict, keras_hub: Any, custom_objects: dict | None) -> type:
    """The class of the task, or of the backbone where there is no task."""
    name = _TASK if _TASK in configs else _CONFIG
    base = keras_hub.models.Task if name == _TASK else keras_hub.models.Backbone
    saved = str(configs[name].get("registered_name"))
    kind = keras.saving.get_registered_object(saved, custom_objects)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(
            f"{path}: its {name} is of the class {saved!r}, which is no {base.__name__} of "
            f"keras_hub {keras_hub.__version__}. Load it yourself, and pass the model."
        )
    return kind
