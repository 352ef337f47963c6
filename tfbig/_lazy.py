"""Public names that are loaded on their first use, so that importing a package is cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    module: str, names: Mapping[str, str | None], root: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and `__dir__` of a module.

    Type checkers and editors do not run it. So the module also imports the same names under
    `if TYPE_CHECKING`; tests/test_typing.py compares the two lists.

    Example: `__getattr__, __dir__ = lazy(__name__, {"Dropout": "dropout"})`.

    Args:
        module: the name of the module.
        names: maps each public name to the module that defines it, relative to root. Write
            `"module:name"` where that module has it under another name, and None where the
            public name is itself a submodule of `module`.
        root: a package; None: the module itself.
    """
    root = root or module

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where = names[name]
        if where is None:
            value: Any = importlib.import_module(f"{module}.{name}")
        else:
            path, _, attribute = where.partition(":")
            value = getattr(importlib.import_module(f"{root}.{path}"), attribute or name)
        setattr(sys.modules[module], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[module]), *names})

    return load, listed
