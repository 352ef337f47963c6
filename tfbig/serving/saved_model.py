"""SavedModels of Keras models."""

import os
import shutil

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.keras_builder import has_config, rebuilt_uncompiled


def export_saved_model(model: keras.Model, directory: str) -> str:
    """Writes a model with Keras's serving signature, beside first, then renamed.

    Raises:
        UserError: it is no built keras.Model, or the directory cannot be written.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise UserError(
            f"export: expected a keras.Model that has been trained or built, received "
            f"{type(model).__name__}."
        )
    # A copy with plain variables: a mirrored model's would be saved with its replicas.
    plain = rebuilt_uncompiled(model) if has_config(model) else model
    directory = os.path.abspath(directory)
    temporary = f"{directory}.tmp-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        plain.export(temporary, format="tf_saved_model", verbose=False)
        if os.path.isdir(directory):
            shutil.rmtree(directory)
        os.rename(temporary, directory)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(
            f"export to {directory!r} failed: {reason}; give a directory that can be written."
        ) from error
    return directory
