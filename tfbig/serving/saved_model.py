"""SavedModels of Keras models."""

import os
import shutil

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.rebuilding import CANNOT_BE_REBUILT, rebuilt_uncompiled


def export_saved_model(model: keras.Model, directory: str) -> str:
    """Writes a model with Keras's serving signature, beside first, then renamed.

    Raises:
        UserError: it is no built keras.Model, the directory cannot be written, or it holds
            something else than an earlier export.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise UserError(
            f"export: expected a keras.Model that has been trained or built, received "
            f"{type(model).__name__}."
        )
    directory = os.path.abspath(directory)
    if os.path.isdir(directory) and not _may_be_replaced(directory):
        raise UserError(
            f"export to {directory!r}: it holds other files than a SavedModel; give a new "
            "directory, or an earlier export to replace."
        )
    try:  # a copy with plain variables: a mirrored model's would be saved with its replicas
        plain = rebuilt_uncompiled(model)
    except CANNOT_BE_REBUILT:
        plain = model
    temporary, old = (f"{directory}.{kind}-{os.getpid()}" for kind in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        plain.export(temporary, format="tf_saved_model", verbose=False)
        if os.path.isdir(directory):
            os.rename(directory, old)
        os.rename(temporary, directory)
    except (OSError, tf.errors.OpError) as error:
        if os.path.isdir(old):
            os.rename(old, directory)
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(
            f"export to {directory!r} failed: {reason}; give a directory that can be written."
        ) from error
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
    return directory


def _may_be_replaced(directory: str) -> bool:
    names = os.listdir(directory)
    return not names or "saved_model.pb" in names
