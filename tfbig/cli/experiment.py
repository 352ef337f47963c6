"""Converts a config to the arguments of train_distributed, fine_tune and evaluate."""

import functools
import importlib
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
from ml_collections import ConfigDict

from tfbig import _private_api
from tfbig.clusters.find import environ_without_cluster
from tfbig.errors import UserError
from tfbig.finetuning.hub import is_handle
from tfbig.finetuning.recipe import recipe_from
from tfbig.programs.model_fn.call import is_estimator_style
from tfbig.run_config import run_config_from
from tfbig.training.run_length import RunLength
from tfbig.training.step.optimizers import build_optimizer

log = logging.getLogger("tfbig")

_FINETUNE_FIELDS = ("pretrained", "base_model_fn", "recipe")


def train_arguments(config: ConfigDict) -> dict[str, Any]:
    """Returns the arguments of train_distributed that a config sets.

    Example: `tfbig.train_distributed(**train_arguments(config))`.

    Args:
        config: see `tfbig.cli.config_file.FIELDS`; functions are dotted names ("module.function")
            or functions.

    Raises:
        UserError: a field is missing or has an invalid value.
    """
    for name in _FINETUNE_FIELDS:
        if config.get(name) is not None:
            raise UserError(f"config.{name} is for tfbig finetune; tfbig train does not read it.")
    _check_given(config, "model_fn", "input_fn")
    arguments = _run_arguments(config)
    arguments["model_fn"] = resolve("model_fn", config.model_fn)
    if config.get("optimizer") is not None:
        _set_optimizer(arguments, config.optimizer)
    return arguments


def finetune_arguments(config: ConfigDict) -> dict[str, Any]:
    """Returns the arguments of fine_tune that a config sets.

    Example: `tfbig.fine_tune(**finetune_arguments(config))`.

    Args:
        config: as for `train_arguments`, with `pretrained`, a path. Optional fields are `recipe`
            (Recipe's fields) or `model_fn`, `base_model_fn`, and `pretrained_made_by`, the dotted
            name of a function that writes the pretrained model to a path; it is called if the
            path does not exist.

    Raises:
        UserError: a field is missing or has an invalid value.
    """
    _check_given(config, "input_fn")
    pretrained, model_fn = config.get("pretrained"), config.get("model_fn")
    if not isinstance(pretrained, str) or not pretrained:
        raise UserError(
            f"config.pretrained={pretrained!r}: expected the path of a saved model; write "
            "config.pretrained, or --pretrained=PATH."
        )
    path = os.path.expanduser(pretrained)
    maker = config.get("pretrained_made_by")
    if maker and not os.path.exists(path) and not is_handle(path):
        _make_pretrained(maker, path)
    base_model_fn = config.get("base_model_fn")
    arguments = _run_arguments(config) | {
        "pretrained": path,
        "model_fn": model_fn and resolve("model_fn", model_fn),
        "base_model_fn": base_model_fn and resolve("base_model_fn", base_model_fn),
        "recipe": None,
    }
    if config.get("recipe") is not None:
        if model_fn is not None:
            raise UserError(
                "config.model_fn and config.recipe were both given; a recipe builds the model "
                "from the loaded one, so leave one of them out."
            )
        if config.get("optimizer") is not None:
            raise UserError(
                "config.optimizer and config.recipe were both given; with a recipe write "
                "config.recipe.optimizer and config.recipe.learning_rate."
            )
        arguments["recipe"] = recipe_from(config.recipe)
    elif config.get("optimizer") is not None:
        arguments["model_fn"] = arguments["model_fn"] or _as_loaded
        _set_optimizer(arguments, config.optimizer)
    return arguments


def _make_pretrained(maker: str, path: str) -> None:
    """Calls the function with this dotted name in a new process, because it may train."""
    resolve("pretrained_made_by", maker)
    log.info("%s does not exist; %s creates it", path, maker)
    calls = (
        "import sys; from tfbig.cli.experiment import resolve; resolve(*sys.argv[1:3])(sys.argv[3])"
    )
    stem, end = os.path.splitext(path)
    temporary = f"{stem}.tmp-{os.getpid()}{end}"  # an interrupted call must not leave half a model
    words = [sys.executable, "-c", calls, "pretrained_made_by", maker, temporary]
    code = subprocess.run(words, check=False, env=environ_without_cluster()).returncode
    if not code and os.path.exists(temporary):
        os.replace(temporary, path)
    if code or not os.path.exists(path):
        ended = f"ended with exit code {code}" if code else "did not write it"
        raise UserError(
            f"pretrained={path!r} does not exist, and {maker}, which should create it, {ended}; "
            "pass another one with --pretrained=PATH."
        )


def evaluate_arguments(config: ConfigDict) -> dict[str, Any]:
    """Returns the arguments of evaluate that a config sets: held-out data and architecture.

    Args:
        config: as for `train_arguments`; the optimizer is ignored.

    Raises:
        UserError: there is no eval_input_fn, or a field has an invalid value.
    """
    if config.get("eval_input_fn") is None:
        raise UserError(
            'the config has no eval_input_fn; write config.eval_input_fn = "module.function", the '
            "dotted name of what returns the held-out data."
        )
    model_fn = config.get("model_fn") and resolve("model_fn", config.model_fn)
    if model_fn and is_estimator_style(model_fn):
        raise UserError(
            "config.model_fn is estimator-style (its first parameter is features), but only "
            "Keras models can be evaluated so far; pass eval_input_fn to train_distributed."
        )
    return {
        "input_fn": resolve("eval_input_fn", config.eval_input_fn),
        "base_model_fn": model_fn,
        "params": _params(config),
    }


def resolve(field: str, name: Any) -> Callable:
    """Returns the function with a dotted name.

    Example: `resolve("model_fn", "tfbig.models.mlp.build")`.

    Args:
        field: the name of the config's field, for error messages.
        name: "package.module.function", or a function, which is returned as it is.

    Raises:
        UserError: the module or the function does not exist, or the module fails to import.
    """
    if callable(name):
        return name
    if not isinstance(name, str) or "." not in name:
        raise UserError(
            f'config.{field}={name!r}: expected a dotted name such as "tfbig.models.mlp.build".'
        )
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but not one that it imports
        raise UserError(
            f"config.{field}={name!r}: there is no module {error.name!r}; modules are searched "
            "in the current folder and in the installed packages."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [
            n
            for n, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module_name and n[0] != "_"
        ]
        raise UserError(
            f"config.{field}={name!r}: {module_name} has no function {attribute!r}; its functions "
            f"are: {', '.join(functions) or 'none'}."
        )
    return function


def with_optimizer(
    model_fn: Callable, optimizer: Any, total_steps: Callable[[], int | None]
) -> Callable:
    """Wraps a builder so that its models are compiled with a config's optimizer.

    Args:
        model_fn: returns a compiled keras.Model.
        optimizer: the argument of `build_optimizer`.
        total_steps: returns the last step of the run, or None; called when a model is built.

    Raises:
        UserError: model_fn is estimator-style, so it sets its own optimizer.
    """
    if is_estimator_style(model_fn):
        raise UserError(
            "config.optimizer is given, but model_fn is estimator-style (its first parameter is "
            "features) and returns its own optimizer in the EstimatorSpec; leave config.optimizer "
            "out, and pass what the model_fn needs in config.params."
        )

    @functools.wraps(model_fn)
    def builder(*arguments, **keywords):
        model = model_fn(*arguments, **keywords)
        if isinstance(model, keras.Model) and model.compiled:
            options = _private_api.compile_arguments(model)
            options["optimizer"] = build_optimizer(optimizer, total_steps())
            model.compile(**options)
        return model

    return builder


def _as_loaded(model: keras.Model) -> keras.Model:
    return model


def _check_given(config: ConfigDict, *names: str) -> None:
    for name in names:
        if config.get(name) is None:
            raise UserError(
                f'the config has no {name}; write config.{name} = "module.function", a dotted name.'
            )


def _run_arguments(config: ConfigDict) -> dict[str, Any]:
    """Returns the arguments that train_distributed and fine_tune share."""
    eval_input_fn = config.get("eval_input_fn")
    return {
        "input_fn": resolve("input_fn", config.input_fn),
        "eval_input_fn": eval_input_fn and resolve("eval_input_fn", eval_input_fn),
        "params": _params(config),
        "config": run_config_from(_run_fields(config)),
        "max_steps": config.get("max_steps"),
        "epochs": config.get("epochs"),
    }


def _set_optimizer(arguments: dict[str, Any], optimizer: Any) -> None:
    length = RunLength(arguments["input_fn"], arguments["max_steps"], arguments["epochs"])
    arguments["input_fn"] = length.input_fn
    arguments["model_fn"] = with_optimizer(arguments["model_fn"], optimizer, length.total_steps)


def _params(config: ConfigDict) -> ConfigDict | None:
    """Returns config.params, with config.data as `data`, which input_fn reads."""
    params, data = config.get("params"), config.get("data")
    if data is None:
        return params
    if params is not None and "data" in params:
        raise UserError("the config has both data and params.data; write one of them.")
    merged = ConfigDict(params.to_dict() if params is not None else {})
    merged.data = data
    return merged


def _run_fields(config: ConfigDict) -> dict[str, Any]:
    run = config.get("run")
    if run is None:
        return {}
    if not isinstance(run, ConfigDict):
        raise UserError(
            f"config.run={run!r}: expected a ConfigDict of RunConfig's fields, such as "
            'ConfigDict({"precision": "mixed_bfloat16"}).'
        )
    return dict(run.items())
