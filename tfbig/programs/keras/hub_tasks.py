"""What a KerasHub task has besides layers, and its config and compile options leave out."""

import sys
from typing import Any

import keras


def is_task(model: Any) -> bool:
    """Whether a model is a task of KerasHub, which is not imported for the question."""
    models = getattr(sys.modules.get("keras_hub"), "models", None)
    return models is not None and isinstance(model, models.Task)


def with_preprocessor(task: keras.layers.Layer, config: dict) -> dict:
    """A task's config with its preprocessor itself: a tokenizer's config has no vocabulary.

    Args:
        task: any layer; the config of one that is no task is returned as it is.
        config: of its get_config.
    """
    preprocessor = task.preprocessor if is_task(task) else None
    if preprocessor is None or getattr(preprocessor, "weights", None):
        return config
    return {**config, "preprocessor": preprocessor}


def compile_options(model: keras.Model) -> dict[str, Any]:
    """What a model's `compile` takes besides Keras's arguments: how a CausalLM samples."""
    sampler = getattr(model, "sampler", None) if is_task(model) else None
    return {} if sampler is None else {"sampler": sampler}
