"""Loads SavedModel folders as Keras models."""

import logging
import os

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.finetuning.graph_layer import (
    CannotBeLayer,
    as_model,
    refused_operations,
    trusting,
)

log = logging.getLogger("tfbig")

_SIGNATURES = ("serving_default", "serve")


def is_saved_model(path: str) -> bool:
    """Whether a path is the folder of a SavedModel."""
    return os.path.isfile(os.path.join(path, "saved_model.pb"))


def load_saved_model(path: str, safe_mode: bool) -> keras.Model:
    """Loads a SavedModel as a functional model, which is trainable if its graph allows it.

    Args:
        path: the folder: an export of Keras, of tf.keras, or of any tf.Module.
        safe_mode: raise an error for graphs with operations that access files or Python functions.

    Raises:
        UserError: the SavedModel cannot be read, is unsafe, or has no function to call.
    """
    check_saved_model(path, safe_mode)
    _, function = _loaded(path)
    name = "".join(c if c.isalnum() else "_" for c in os.path.basename(path.rstrip("/")))
    try:
        with trusting(not safe_mode):
            model, unreached = as_model(function, name or "saved_model")
    except CannotBeLayer as reason:
        log.info("%s is a frozen feature extractor: %s.", path, reason)
        return _frozen_model(path, function, name or "saved_model")
    if not model.trainable_variables:
        log.info("%s is a frozen feature extractor: no gradient reaches a variable.", path)
    else:
        count = sum(v.shape.num_elements() for v in model.trainable_variables)
        log.info(
            "%s can be trained: %d weights, %d parameters, through the graph of its signature "
            "(as at inference: Dropout is off, BatchNormalization's statistics stay).",
            path,
            len(model.trainable_variables),
            count,
        )
        if unreached:
            log.info("no gradient reaches %s; they are not trained.", ", ".join(unreached))
    return model


def check_saved_model(path: str, safe_mode: bool) -> None:
    """Checks the operations of a SavedModel before it is loaded.

    Raises:
        UserError: the SavedModel is damaged, or unsafe in safe mode.
    """
    file = os.path.join(path, "saved_model.pb")
    try:
        with open(file, "rb") as opened:
            saved = saved_model_pb2.SavedModel.FromString(opened.read())
        if not saved.meta_graphs:
            raise ValueError("it holds no graph")
    except (OSError, DecodeError, ValueError) as error:
        raise UserError(f"{file} is damaged or not a SavedModel: {error}.") from error
    operations = set()
    for meta in saved.meta_graphs:
        operations |= {node.op for node in meta.graph_def.node}
        for function in meta.graph_def.library.function:
            operations |= {node.op for node in function.node_def}
    refused = refused_operations(operations)
    if refused and safe_mode:
        raise UserError(
            f"{path} is refused: its graph has operations that access files or Python functions "
            f"({', '.join(refused)}). If you trust its source, pass safe_mode=False."
        )


def _loaded(path: str):
    """Loads a SavedModel; returns the object, which owns the variables, and its function."""
    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:  # damaged files make TensorFlow's reader raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"the SavedModel {path} cannot be loaded: {reason}") from error
    signatures = loaded.signatures
    key = next((name for name in _SIGNATURES if name in signatures), None)
    if key is None and len(signatures) == 1:
        key = next(iter(signatures))
    if key is not None:
        return loaded, signatures[key]
    call = loaded.__call__ if callable(loaded) else None
    functions = getattr(call, "concrete_functions", [])
    if not functions:
        raise UserError(
            f"the SavedModel {path} has neither a signature among {', '.join(_SIGNATURES)} nor a "
            f"traced __call__ (its signatures: {', '.join(signatures) or 'none'}); save it with "
            "tf.saved_model.save(module, path, signatures=function)."
        )
    return loaded, functions[0]


def _frozen_model(path: str, function, name: str) -> keras.Model:
    _, named = function.structured_input_signature
    if not named:
        raise UserError(
            f"the SavedModel {path} cannot be used: its function takes positional arguments and "
            "needs tables; save it with a signature."
        )
    symbols = {
        key: keras.Input(spec.shape[1:], dtype=spec.dtype.name, name=key)
        for key, spec in named.items()
    }
    given = next(iter(symbols.values())) if len(symbols) == 1 else symbols
    return keras.Model(given, SavedModelLayer(path)(given), name=name)


@keras.saving.register_keras_serializable("tfbig")
class SavedModelLayer(keras.layers.Layer):
    """Calls the signature of a SavedModel, which is not trained.

    A model with this layer saves only the path of the folder, like keras.layers.TFSMLayer, so the
    folder must not be moved.

    Args:
        path: the folder of the SavedModel.
    """

    def __init__(self, path: str, **keywords):
        super().__init__(autocast=False, trainable=False, **keywords)
        self._path = os.path.abspath(path)
        self._loaded, self._function = _loaded(self._path)
        self.built = True

    @override
    def call(self, inputs):
        _, named = self._function.structured_input_signature
        given = inputs if isinstance(inputs, dict) else {next(iter(named)): inputs}
        outputs = self._function(**given)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    @override
    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("trainable", None)
        return {**config, "path": self._path}

    @classmethod
    def from_config(cls, config: dict):
        """Loads the SavedModel again, in safe mode."""
        if not is_saved_model(config["path"]):
            raise UserError(
                f"the model calls the SavedModel {config['path']}, which does not exist; restore "
                "the folder."
            )
        check_saved_model(config["path"], safe_mode=True)
        return cls(**config)
