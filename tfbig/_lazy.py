"""Public names that are loaded on their first use, so that importing a package is cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    module: str, names: Mapping[str, str | None], root: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a module.

    Example: `__getattr__, __dir__ = lazy(__name__, {"Dropout": "dropout"})`.

    Args:
        module: its name.
        names: by public name the module that defines it, relative to root; None: the name is
            itself a module there.
        root: a package; None: the module itself.
    """
    root = root or module

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where = names[name]
        found = importlib.import_module(f"{root}.{where or name}")
        value = found if where is None else getattr(found, name)
        setattr(sys.modules[module], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[module]), *names})

    return load, listed
