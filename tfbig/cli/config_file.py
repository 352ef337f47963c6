"""Loads config files, and defines the flags `--config.field=value` that change their fields."""

import importlib.util
import os
import re
import traceback
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict, FieldReference, placeholder

import tfbig
from tfbig.errors import UserError

FIELDS = (
    "model_fn",
    "input_fn",
    "eval_input_fn",
    "params",
    "data",
    "optimizer",
    "run",
    "max_steps",
    "epochs",
    # For tfbig finetune: a path, the function that creates it, a dotted name, Recipe's fields.
    "pretrained",
    "pretrained_made_by",
    "base_model_fn",
    "recipe",
)
# The code that reads these parts checks them, so a flag may add a field to them.
_EXTENSIBLE = (
    "run",
    "optimizer",
    "optimizer.learning_rate",
    "data",
    "data.source",
    "data.split",
    "recipe",
    "recipe.optimizer",
    "recipe.learning_rate",
)
# Parts that a flag may replace completely, by a number, a name or a Python dict.
_REPLACEABLE = (
    "optimizer.learning_rate",
    "recipe.learning_rate",
    "recipe.optimizer",
    "recipe.unfreeze",
)


def load_config(path: str) -> ConfigDict:
    """Runs a config file and returns the result of its get_config().

    Example: `load_config("configs/digits_mlp.py")`, or `load_config("digits_mlp")`.

    Args:
        path: a Python file, or the name of one of tfbig's own configs; "file.py:text" and
            "name:text" call get_config("text").

    Raises:
        UserError: the file does not exist, or it raises an error; the message names the line.
    """
    path, colon, argument = path.partition(":")
    path = _found(path)
    spec = importlib.util.spec_from_file_location("tfbig_config", os.path.abspath(path))
    if spec is None:
        raise UserError(f"--config={path}: expected a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(_located(path, error)) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(
            f"{path} has no function get_config(); define one that returns a ConfigDict."
        )
    try:
        config = get_config(argument) if colon else get_config()
    except Exception as error:
        raise UserError(_located(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config() returned a {type(config).__name__}; return an "
            "ml_collections.ConfigDict."
        )
    unknown = [name for name in config if name not in FIELDS]
    if unknown:
        raise UserError(
            f"{path}: unknown config field {', '.join(map(repr, unknown))}; the fields are: "
            f"{', '.join(FIELDS)}."
        )
    return config


def packaged_configs() -> dict[str, str]:
    """Returns the paths of tfbig's own configs by name: `packaged_configs()["digits_mlp"]`.

    A wheel has them inside of the package, a clone beside it.
    """
    package = os.path.dirname(tfbig.__file__)
    for folder in (os.path.join(package, "configs"), os.path.join(package, "..", "configs")):
        if os.path.isdir(folder):
            files = sorted(name for name in os.listdir(folder) if name.endswith(".py"))
            return {
                name.removesuffix(".py"): os.path.normpath(os.path.join(folder, name))
                for name in files
            }
    return {}


def _found(path: str) -> str:
    """The path of a config file that was given by its path or by the name of a packaged one."""
    if os.path.isfile(path):
        return path
    packaged = packaged_configs()
    if path in packaged:
        return packaged[path]
    if os.path.basename(path) != path or path.endswith(".py"):
        raise UserError(f"--config={path}: there is no such file.")
    raise UserError(
        f"--config={path}: there is no such file, and tfbig has no config of this name; it has "
        f"{', '.join(packaged)}."
    )


def define_overrides(config: ConfigDict, words: list[str], flag_values: flags.FlagValues) -> None:
    """Defines a flag for each field of the config that the command line changes.

    Parsing `flag_values` then sets the fields, which keep their types. A field that is None or a
    list accepts any Python literal.

    Args:
        config: the config, which is modified.
        words: the command line, without the name of the program and without --config.
        flag_values: the FlagValues to which the flags are added.

    Raises:
        UserError: a field does not exist; the message lists the existing ones.
    """
    names = [m[1] for m in (re.match(r"--?(?:no)?config\.([^=]+)", word) for word in words) if m]
    with config.unlocked(), config.ignore_type():
        for name in ("max_steps", "epochs"):
            if name not in config:
                config[name] = None
        for part in ("run", "recipe"):
            if any(name.startswith(f"{part}.") for name in names) and config.get(part) is None:
                config[part] = ConfigDict()
        _allow_flags(config)
        _allow_any_type(config.get("run"))
        _allow_any_type(config.get("recipe"))
        for name in names:
            _add_field(config, name)
    for name in names:
        _check_field(config, name)
    config_flags.DEFINE_config_dict(
        "config", config, flag_values=flag_values, sys_argv=["tfbig", *words]
    )


def described_fields(config: ConfigDict) -> list[str]:
    """Returns one line per field of a config, with its flag and its value."""
    lines = []

    def walk(part: ConfigDict, prefix: str) -> None:
        for name, value in part.items():
            if isinstance(value, ConfigDict):
                walk(value, f"{prefix}{name}.")
            else:
                lines.append(f"--config.{prefix}{name}={value}")

    walk(config, "")
    return lines


def _allow_flags(config: ConfigDict) -> None:
    """Allows any type for fields whose value has no type (None), or one that flags lack (lists)."""
    for name in list(config):
        if config.is_type_safe and config.get_ref(name).get_type() is object:
            continue
        value = config[name]
        if isinstance(value, ConfigDict):
            _allow_flags(value)
        elif value is None or isinstance(value, list):
            config[name] = FieldReference(value, field_type=object)


def _allow_any_type(part: Any) -> None:
    # A value may change its type ("auto" to a number, a number of layers to a pattern), and
    # RunConfig and Recipe check every value.
    for name, value in list(part.items()) if isinstance(part, ConfigDict) else ():
        if not isinstance(value, ConfigDict):
            part[name] = FieldReference(value, field_type=object)


def _add_field(config: ConfigDict, name: str) -> None:
    """Adds a missing field to a part of the config that may have further fields."""
    parent, _, leaf = name.rpartition(".")
    if name in _REPLACEABLE and isinstance(config.get(parent), ConfigDict):
        config[parent][leaf] = placeholder(object)
        return
    if parent in _EXTENSIBLE:
        holder: Any = config
        for part in parent.split("."):
            holder = holder.get(part) if isinstance(holder, ConfigDict) else None
        if isinstance(holder, ConfigDict) and leaf not in holder:
            holder[leaf] = placeholder(object)


def _check_field(config: ConfigDict, name: str) -> None:
    holder, path = config, "config"
    for part in re.split(r"\.|\[", name):
        if isinstance(holder, (int, float, str, type(None))):
            raise UserError(f"--config.{name}: {path} is {holder!r}, which has no fields.")
        if not isinstance(holder, ConfigDict):
            return  # inside a tuple or an object: config_flags finds it or raises an error
        if part not in holder:
            fields = ", ".join(holder) or "none"
            raise UserError(
                f"--config.{name}: there is no such field; those of {path} are: {fields}."
            )
        holder, path = holder[part], f"{path}.{part}"


def _located(path: str, error: Exception) -> str:
    """Returns the error of a config file with the line in which it occurred."""
    line, absolute = None, os.path.abspath(path)
    if isinstance(error, SyntaxError) and error.filename == absolute:
        line, reason = error.lineno, f"SyntaxError: {error.msg}"
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == absolute:
                line = frame.lineno
    where = path if line is None else f"{path}, line {line}"
    return f"{where}: {reason}"
