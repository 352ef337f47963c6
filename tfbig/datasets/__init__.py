"""Bundled data, each `input_fn(mode, params) -> tfbig.data.Source`: digits, text."""

import importlib

__all__ = ["digits", "text"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
