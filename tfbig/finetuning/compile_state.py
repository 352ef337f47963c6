"""Restores the compile state of a model in an `.h5` file of Keras 3 or Keras 2."""

import inspect
import logging
from typing import Any

import h5py
import keras
import numpy as np

from tfbig.finetuning.archives import json_of, reason_of
from tfbig.programs.keras.rebuilding import compile_options

log = logging.getLogger("tfbig")

# Optimizers whose slot variables have the same order in tf.keras and in Keras 3.
_SAME_SLOTS = ("Adam", "AdamW", "SGD", "Adagrad")


def compile_as_saved(
    model: keras.Model, path: str, file: h5py.File, custom_objects: dict | None
) -> None:
    """Compiles a model as it was saved, with the optimizer state; logs what cannot be restored.

    Keras itself fails for `loss="mse"`, because it treats the name of a function as an object.
    """
    text = file.attrs.get("training_config")
    if text is None:
        return
    training = json_of(path, "training_config", text)
    try:
        with keras.saving.custom_object_scope(custom_objects or {}):
            optimizer = _optimizer(training["optimizer_config"])
            model.compile(
                optimizer=optimizer,
                loss=_each(training.get("loss"), _loss),
                loss_weights=training.get("loss_weights"),
                metrics=_each(_flat(model, training.get("metrics")), _metric),
                weighted_metrics=_each(_flat(model, training.get("weighted_metrics")), _metric),
            )
    except Exception as error:  # a config's contents make Keras raise anything
        log.info(
            "%s is loaded without its compile state (%s); compile it again.", path, reason_of(error)
        )
        return
    if "optimizer_weights" in file:
        reason = _restore(optimizer, model, file["optimizer_weights"])
        if reason:
            log.info("%s: the optimizer starts without its state: %s.", path, reason)


def compile_task_as_saved(
    task: keras.Model, path: str, config: dict, custom_objects: dict | None, safe_mode: bool
) -> None:
    """Compiles a KerasHub task as in its `.keras` file, with the optimizer state.

    Keras skips this, with a warning, for models that override `compile`. A task would then have
    the default loss and optimizer of its class instead of those it was trained with.

    Args:
        path: path of a file whose name ends in .keras.
        config: the "compile_config" of the file.
        custom_objects, safe_mode: as for `load_model`.

    Raises:
        Exception: Keras cannot deserialize the config.
    """
    arguments = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects, safe_mode=safe_mode
    )
    task.compile(**arguments, **compile_options(task))
    if task.optimizer is not None:
        task.optimizer.build(task.trainable_variables)
    task.load_weights(path)  # the optimizer's state is among them


def _optimizer(config: dict) -> keras.optimizers.Optimizer:
    name = config["class_name"].split(">")[-1]
    arguments = dict(config["config"])
    if isinstance(arguments.get("learning_rate"), dict):
        schedule = arguments["learning_rate"]
        arguments["learning_rate"] = keras.optimizers.schedules.deserialize(schedule)
    kind = type(keras.optimizers.get(name.lower()))
    arguments["name"] = name.lower()
    return kind(**_known(kind, arguments))


def _loss(config: Any) -> Any:
    if isinstance(config, str):
        keras.losses.get(config)  # raises an error for an unknown name
        return config
    name = config["class_name"].split(">")[-1]
    if name == "function":
        return keras.losses.get(config["config"])
    arguments = dict(config["config"])
    if arguments.get("reduction") == "auto":
        arguments["reduction"] = "sum_over_batch_size"
    kind = type(keras.losses.get(name)) if not hasattr(keras.losses, name) else None
    kind = kind or getattr(keras.losses, name)
    return kind(**_known(kind, arguments))


def _metric(config: Any) -> Any:
    if isinstance(config, dict):
        name = config["class_name"].split(">")[-1]
        arguments = dict(config["config"])
        if name != "MeanMetricWrapper":
            kind = getattr(keras.metrics, name, None)
            if kind is None:
                return keras.metrics.deserialize(config)
            return kind(**_known(kind, arguments))
        short = arguments.get("name")
        config = short if short in ("accuracy", "acc") else arguments["fn"]
    if config not in ("accuracy", "acc", "crossentropy", "ce"):
        keras.metrics.get(config)
    return config


def _each(config: Any, make: Any) -> Any:
    """Applies `make` to the leaves of nested lists and dicts."""
    if config is None:
        return None
    if isinstance(config, list):
        return [_each(item, make) for item in config]
    if isinstance(config, dict) and "class_name" not in config:
        return {key: _each(item, make) for key, item in config.items()}
    return make(config)


def _flat(model: keras.Model, metrics: Any) -> Any:
    """Unpacks the metrics of a single output, for which tf.keras writes a nested list."""
    one = len(model.outputs or []) == 1
    nested = isinstance(metrics, list) and len(metrics) == 1 and isinstance(metrics[0], list)
    return metrics[0] if one and nested else metrics


def _known(kind: type, arguments: dict) -> dict:
    """The arguments that a class takes; other versions of it may have others."""
    parameters = inspect.signature(kind.__init__).parameters
    return {key: value for key, value in arguments.items() if key in parameters}


def _restore(optimizer, model: keras.Model, group: h5py.Group) -> str | None:
    """Restores an optimizer's variables; returns None, or the reason why it cannot."""
    names = [n.decode() if isinstance(n, bytes) else n for n in _names(group)]
    values = [np.asarray(group[name]) for name in names]
    if len(values) < 1 or not model.built:
        return "the file has no state for it"
    optimizer.build(model.trainable_variables)
    variables = list(optimizer.variables)
    if len(values) == len(variables) - 1:  # tf.keras does not save the learning rate there
        if type(optimizer).__name__ not in _SAME_SLOTS:
            return f"Keras 3 orders the slot variables of {type(optimizer).__name__} differently"
        variables = [v for v in variables if not v.path.endswith("learning_rate")]
    if [v.shape for v in variables] != [v.shape for v in values]:
        return f"the file has {len(values)} variables for it, with other shapes"
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return None


def _names(group: h5py.Group) -> list:
    if "weight_names" in group.attrs:
        return list(group.attrs["weight_names"])
    names, i = [], 0
    while f"weight_names{i}" in group.attrs:  # a long list comes in parts
        names += list(group.attrs[f"weight_names{i}"])
        i += 1
    return names
