"""Fine-tuning of saved models: loading, recipes, adapters.

Importing this module is cheap: each name, and the library behind it, is loaded on its first use.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "LoadReport": "partial",
    "Recipe": "recipe",
    "load_adapters": "lora",
    "load_model": "loading",
    "load_weights": "partial",
    "save_adapters": "lora",
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.finetuning.loading import load_model as load_model
    from tfbig.finetuning.lora import load_adapters as load_adapters, save_adapters as save_adapters
    from tfbig.finetuning.partial import LoadReport as LoadReport, load_weights as load_weights
    from tfbig.finetuning.recipe import Recipe as Recipe
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
