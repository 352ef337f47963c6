"""Ready-made builders, each `build(params) -> compiled keras.Model`: mlp, cnn, transformer_lm.

A builder takes a dict or ConfigDict of its own names, refuses names that it does not know, and
leaves `data` to the input_fn. It compiles with Adam; a config's `optimizer` takes its place.
"""

import importlib

__all__ = ["cnn", "mlp", "transformer_lm"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
