"""Checks of the arguments that the public functions share."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.run_config import RunConfig


def call_input_fn(
    input_fn: Callable, mode: str, params: Any, config: RunConfig, name: str = "input_fn"
) -> tf.data.Dataset | Source:
    """Calls an input_fn with those of mode, params, config and input_context that it takes.

    Raises:
        UserError: it requires another argument, or returns neither a Dataset nor a Source.
    """
    given = {
        "mode": mode,
        "params": params,
        "config": config,
        "input_context": tf.distribute.InputContext(),
    }
    arguments = {}
    for key, parameter in inspect.signature(input_fn).parameters.items():
        if key in given:
            arguments[key] = given[key]
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise UserError(
                f"{name} requires an argument {key!r}; it can take mode, params, config and "
                "input_context by name. Give other arguments a default, or use "
                "functools.partial."
            )
    try:
        data = input_fn(**arguments)
    except AttributeError as error:
        if "make_one_shot_iterator" not in str(error):
            raise
        raise UserError(f"{name} creates an iterator; {_RETURN_IT}") from error
    if not isinstance(data, (tf.data.Dataset, Source)) and _has_tensors(data):
        raise UserError(f"{name} returned the tensors of one batch; {_RETURN_IT}")
    if not isinstance(data, (tf.data.Dataset, Source)):
        raise UserError(
            f"{name} returned {_shown(data)}; return a batched tf.data.Dataset or a "
            "tfbig.data.Source, for example tfbig.data.ArraySource((features, labels)).batch(64)."
        )
    return data


def checked_config(config: Any) -> RunConfig:
    """Returns the given RunConfig, or the default one for None; else raises a UserError."""
    if config is None:
        return RunConfig()
    if not isinstance(config, RunConfig):
        raise UserError(
            f"config={config!r}: expected a tfbig.RunConfig, such as "
            "config=tfbig.RunConfig(accumulation_steps=2)."
        )
    return config


def checked_model_dir(model_dir: Any, config: RunConfig | None = None) -> str | None:
    """Returns the path of a directory as a string, or None.

    Args:
        model_dir: as given by the user.
        config: may have a model_dir too.

    Raises:
        UserError: it is no path, or the config has another one.
    """
    if config is not None and config.model_dir is not None:
        if model_dir is not None and os.fspath(model_dir) != os.fspath(config.model_dir):
            raise UserError(
                "`model_dir` are set both in constructor and `RunConfig`, but with different "
                f"values: {os.fspath(model_dir)!r} and {os.fspath(config.model_dir)!r}; write it "
                "in one place."
            )
        model_dir = config.model_dir
    if model_dir is None:
        return None
    if not isinstance(model_dir, (str, os.PathLike)) or not os.fspath(model_dir):
        raise UserError(
            f"model_dir={model_dir!r}: expected the path of a directory, or None to save nothing."
        )
    return os.fspath(model_dir)


def check_limits(max_steps: Any, epochs: Any) -> None:
    """Raises a UserError if both limits are given, or one is not an integer of 1 or more."""
    if max_steps is not None and epochs is not None:
        raise UserError(
            f"max_steps={max_steps} and epochs={epochs} were both given; pass one of them."
        )
    check_count("max_steps", max_steps)
    check_count("epochs", epochs)


def check_count(name: str, value: Any) -> None:
    """Raises a UserError if a count is neither None nor an integer of 1 or more."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value >= 1):
        raise UserError(f"{name}={value!r}: expected an integer of 1 or more, or None.")


def check_steps(name: str, value: Any) -> None:
    """Raises a UserError, with tf.estimator's words, if a number of steps is not 1 or more."""
    if isinstance(value, int) and value < 1:
        raise UserError(f"Must specify {name} > 0, given: {value}; leave it out for no limit.")
    check_count(name, value)


def check_callable(name: str, value: Any) -> None:
    """Raises a UserError if an input function is not callable."""
    if not callable(value):
        raise UserError(
            f"{name}={_shown(value)}: expected a function that returns a tf.data.Dataset or a "
            f"tfbig.data.Source; pass {name}=lambda: data."
        )


_RETURN_IT = (
    "return the Dataset itself: `return dataset` instead of "
    "`return dataset.make_one_shot_iterator().get_next()`."
)


def _has_tensors(data: Any) -> bool:
    """Whether an input_fn returned a structure of tensors, as with TensorFlow 1."""
    try:
        return any(tf.is_tensor(leaf) for leaf in tf.nest.flatten(data))
    except TypeError:  # a dict whose keys cannot be sorted
        return False


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
