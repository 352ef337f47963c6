"""From a saved model to a better one: loading, recipes, adapters.

Importing this module is cheap: each name, and the library behind it, is loaded on its first use.
"""

from tfbig._lazy import lazy

_MODULES = {
    "LoadReport": "partial",
    "Recipe": "recipe",
    "load_adapters": "lora",
    "load_model": "loading",
    "load_weights": "partial",
    "save_adapters": "lora",
}

__all__ = list(_MODULES)

__getattr__, __dir__ = lazy(__name__, _MODULES)
