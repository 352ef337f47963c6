"""tfbig's own callbacks; they are given to train_distributed next to Keras's.

Importing this module is cheap: each name is loaded on its first use.
"""

import importlib

_MODULES = {
    "LoopCallback": "callback",
    "NaNGuard": "nan_guard",
    "Progress": "progress",
    "RunInfo": "callback",
    "Summaries": "summaries",
    "Throughput": "throughput",
    "locate_first_bad_op": "nan_guard",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"tfbig.training.callbacks.{_MODULES[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
