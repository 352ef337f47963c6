"""Packages that tfbig needs for a part of its functions only, and the extra that installs each."""

import importlib
import importlib.util
from typing import Any

from tfbig.errors import UserError

# By package the extra of setup.cfg that has it.
EXTRAS = {
    "array_record": "data",
    "fsspec": "data",
    "keras_hub": "hub",
    "libcst": "migrate",
    "matplotlib": "eval",
    "pandas": "data",
    "PIL": "data",
    "pyarrow": "data",
    "scipy": "eval",
    "tf_keras": "legacy",
    "tokenizers": "text",
}


def is_installed(package: str) -> bool:
    """Whether a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def install(package: str) -> str:
    """The command that installs a package, such as `pip install 'tfbig[data]'`."""
    return f"pip install 'tfbig[{EXTRAS[package]}]'"


def check(package: str, purpose: str) -> None:
    """Refuses to begin what would need a package that is not installed.

    Example: `check("matplotlib", "evaluate(model_dir=…)")`.

    Raises:
        UserError: it is not installed; the message names the extra.
    """
    if not is_installed(package):
        raise UserError(_message(package, purpose))


def load(module: str, purpose: str = "this") -> Any:
    """Imports a module of an optional package, where it is used.

    Example: `csv = load("pyarrow.csv", "CsvSource")`.

    Args:
        module: the package or a module of it.
        purpose: what needs it, for the message.

    Raises:
        UserError: the package is not installed; the message names the extra.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if is_installed(package):  # it is there, but broken
            raise
        raise UserError(_message(package, purpose)) from error


def _message(package: str, purpose: str) -> str:
    name = "pillow" if package == "PIL" else package
    return f"{purpose} needs the package {name}, which is not installed; write {install(package)}."
