"""From a saved model to a better one: loading, recipes, adapters.

Importing this module is cheap: each name, and the library behind it, is loaded on its first use.
"""

import importlib

_MODULES = {
    "LoadReport": "partial",
    "Recipe": "recipe",
    "load_adapters": "lora",
    "load_model": "loading",
    "load_weights": "partial",
    "save_adapters": "lora",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"tfbig.finetuning.{_MODULES[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
