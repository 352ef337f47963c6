"""Keras layers with something to say about distribution.

Importing this module is cheap: each name is loaded on its first use.
"""

import importlib

_MODULES = {"Dropout": "dropout"}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"tfbig.layers.{_MODULES[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
