"""Loads whole models from `.keras` and `.h5` files of Keras 3 and of Keras 2 (tf.keras)."""

import contextlib
import logging
import math
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import tensorflow as tf

import tfbig.layers.dropout
import tfbig.layers.sharded_embedding

# Imported to register their classes, without which Keras cannot load files that use them.
import tfbig.metrics.bits_per_byte
import tfbig.models.transformer_lm
import tfbig.training.step.optimizers  # noqa: F401
from tfbig import _private_api
from tfbig._optional import install, is_installed
from tfbig.errors import UserError
from tfbig.finetuning.archives import (
    check_archive,
    check_hdf5,
    check_no_bytecode,
    json_of,
    most_bytes,
    read_member,
    reason_of,
)
from tfbig.finetuning.compile_state import compile_as_saved, compile_task_as_saved
from tfbig.finetuning.graph_layer import CannotBeLayer, as_model, trusting
from tfbig.programs.keras.rebuilding import is_task

log = logging.getLogger("tfbig")

WEIGHTS = "model.weights.h5"
# Parts of Keras's messages about unknown classes.
_NOT_KNOWN = ("Could not locate", "Unknown", "custom_objects", "not a KerasSaveable subclass")


@contextlib.contextmanager
def opened_hdf5(path: str, member: str | None = None) -> Iterator[h5py.File]:
    """Opens an HDF5 file, or one in a `.keras` archive, and checks its structure.

    Raises:
        UserError: the file is damaged, including damage that is found while the block reads it.
    """
    try:
        with contextlib.ExitStack() as stack:
            source: Any = path
            if member is not None:
                source = stack.enter_context(zipfile.ZipFile(path)).open(member)
            file = stack.enter_context(h5py.File(source, "r"))
            check_hdf5(path, file)
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {reason_of(error)}.") from error


@contextlib.contextmanager
def named(path: str, ending: str) -> Iterator[str]:
    """A path with the suffix that Keras expects for a format; older Keras wrote HDF5 as .keras."""
    if path.endswith(ending):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "model" + ending)
        os.symlink(os.path.abspath(path), link)
        yield link


def load_keras(path: str, safe_mode: bool, custom_objects: dict | None) -> keras.Model:
    """Loads a model from a `.keras` archive, with its optimizer state.

    Raises:
        UserError: the file is damaged or unsafe, or needs unknown classes.
    """
    config, version = check_keras(path, safe_mode)

    def load(compiled: bool) -> keras.Model:
        with trusting(not safe_mode), bounded_variables(path), warnings.catch_warnings():
            if _of_keras_hub(config):  # it is compiled below
                warnings.filterwarnings("ignore", r"`compile\(\)` was not called")
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(
                path, custom_objects=custom_objects, compile=compiled, safe_mode=safe_mode
            )
            if compiled and is_task(model) and config.get("compile_config"):
                with named(path, ".keras") as there:
                    compiling = config["compile_config"]
                    compile_task_as_saved(model, there, compiling, custom_objects, safe_mode)
            return model

    if version.startswith("2"):
        return _by_either(path, lambda: load(False), custom_objects, version, safe_mode)
    try:
        return load(True)
    except Exception as error:  # a file's contents make Keras raise anything
        if not isinstance(config, dict) or not config.get("compile_config"):
            raise cannot_be_loaded(path, error) from error
        reason = error
    try:
        model = load(False)
    except Exception as error:
        raise cannot_be_loaded(path, error) from error
    log.info(
        "%s is loaded without its compile state (%s); compile it again.", path, reason_of(reason)
    )
    return model


def _of_keras_hub(config: Any) -> bool:
    return isinstance(config, dict) and str(config.get("module")).startswith("keras_hub")


def check_keras(path: str, safe_mode: bool) -> tuple[Any, str]:
    """Checks a `.keras` archive; returns its config and the version of Keras that wrote it.

    Raises:
        UserError: the archive is damaged or unsafe.
    """
    names = check_archive(path)
    for name in ("config.json", "metadata.json"):
        if name not in names:
            raise UserError(f"{path} is not a .keras file: there is no {name} in the archive.")
    config = json_of(path, "config.json", read_member(path, "config.json"))
    metadata = json_of(path, "metadata.json", read_member(path, "metadata.json"))
    check_no_bytecode(path, config, safe_mode)
    if WEIGHTS in names:
        with opened_hdf5(path, WEIGHTS):
            pass
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return config, str(version or "")


def load_h5(path: str, safe_mode: bool, custom_objects: dict | None) -> keras.Model | None:
    """Loads a model from an `.h5` file, with its compile state if possible; None: only weights.

    Raises:
        UserError: the file is damaged or unsafe, or needs unknown classes.
    """
    with opened_hdf5(path) as file:
        text = file.attrs.get("model_config")
        if text is None:
            return None
        config = json_of(path, "model_config", text)
        version = file.attrs.get("keras_version", "2")
    check_no_bytecode(path, config, safe_mode)

    def load() -> keras.Model:
        with bounded_variables(path), named(path, ".h5") as there:
            return keras.saving.load_model(
                there, custom_objects=custom_objects, compile=False, safe_mode=safe_mode
            )

    if str(version).startswith("2"):
        model = _by_either(path, load, custom_objects, str(version), safe_mode)
    else:
        try:
            model = load()
        except Exception as error:  # a file's contents make Keras raise anything
            raise cannot_be_loaded(path, error) from error
    with opened_hdf5(path) as file:
        compile_as_saved(model, path, file, custom_objects)
    return model


def cannot_be_loaded(path: str, error: Exception) -> UserError:
    """Converts an error of Keras about a file to a UserError."""
    inner: BaseException | None = error
    while inner is not None:  # Keras wraps what its layers raise
        if isinstance(inner, UserError):
            return UserError(str(inner) if path in str(inner) else f"{path}: {inner}")
        inner = inner.__cause__ or inner.__context__
    text = str(error)
    reason = reason_of(ValueError(re.split(r"Exception encountered: |deserialization: ", text)[-1]))
    hint = ""
    if "keras_hub" in text and not is_installed("keras_hub"):
        hint = f" It is a model of KerasHub; write {install('keras_hub')}."
    elif "safe_mode" in text:
        hint = " If you trust its source, pass safe_mode=False."
    elif any(said in text for said in _NOT_KNOWN):
        hint = ' Pass custom_objects={"Name": Name} for classes and functions of your own.'
    return UserError(f"{path} cannot be loaded: {reason}.{hint}")


@contextlib.contextmanager
def bounded_variables(path: str, most: int | None = None) -> Iterator[None]:
    """Raises a UserError if variables take far more memory than the file, as in a forged config.

    Args:
        path: path of the file.
        most: maximum number of bytes; None: derived from the size of the file.
    """
    most, total = most_bytes(path) if most is None else most, 0

    def create(next_creator, **keywords):
        nonlocal total
        made_for = _private_api.keras_variable_of(keywords.get("initial_value"))
        if made_for is not None:
            size = math.prod(n or 1 for n in made_for.shape)
            total += size * tf.as_dtype(made_for.dtype).size
        if total > most:
            raise UserError(
                f"{path} is refused: the layers in its config would take over {most} bytes, which "
                "its weights cannot fill."
            )
        return next_creator(**keywords)

    with tf.variable_creator_scope(create):
        yield


def _by_either(
    path: str,
    load: Callable[[], keras.Model],
    custom_objects: dict | None,
    version: str,
    safe_mode: bool,
) -> keras.Model:
    """Loads a file of Keras 2 with Keras 3, or else with tf_keras."""
    try:
        return load()
    except Exception as error:  # a file's contents make Keras raise anything
        reason = error
    if not is_installed("tf_keras"):
        raise UserError(
            f"{path} was written by Keras {version}, and Keras 3 cannot read it "
            f"({reason_of(reason)}). Write {install('tf_keras')}, and load it again."
        ) from reason
    import tf_keras  # slow to import, and rarely installed

    try:
        ending = ".keras" if path.endswith(".keras") and zipfile.is_zipfile(path) else ".h5"
        with named(path, ending) as there, trusting(not safe_mode):
            old = tf_keras.models.load_model(
                there, custom_objects=custom_objects, compile=False, safe_mode=safe_mode
            )
            model, fixed = as_model(_traced(old), old.name)
    except CannotBeLayer as error:
        raise UserError(f"{path} was read by tf_keras, but {error}.") from error
    except Exception as error:
        raise cannot_be_loaded(path, error) from error
    log.info(
        "%s was read by tf_keras; its graph is now one layer with %d trainable weights (as at "
        "inference: Dropout is off, BatchNormalization's statistics stay)%s.",
        path,
        len(model.trainable_variables),
        f"; no gradient reaches {', '.join(fixed)}" if fixed else "",
    )
    return model


def _traced(old: Any):
    """Traces the prediction of a tf_keras model to a concrete function of its inputs."""
    specs = [tf.TensorSpec(x.shape, x.dtype, name=x.name.split(":")[0]) for x in old.inputs]
    names = [spec.name for spec in specs]

    def predict(inputs):
        given = [inputs[name] for name in names] if len(specs) > 1 else inputs
        return old(given, training=False)

    given = dict(zip(names, specs, strict=True)) if len(specs) > 1 else specs[0]
    return tf.function(predict).get_concrete_function(given)
