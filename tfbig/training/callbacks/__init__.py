"""tfbig's own callbacks, public as `tfbig.callbacks`; they are given to train_distributed
next to Keras's.

Importing the package is cheap: each name is loaded on its first use.
"""

import importlib

from tfbig import _quiet

_PUBLIC = {
    "LoopCallback": "callback",
    "NaNGuard": "nan_guard",
    "Progress": "progress",
    "RunInfo": "callback",
    "Summaries": "summaries",
    "Throughput": "throughput",
    "locate_first_bad_op": "nan_guard",
}

__all__ = [
    "LoopCallback",
    "NaNGuard",
    "Progress",
    "RunInfo",
    "Summaries",
    "Throughput",
    "locate_first_bad_op",
]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _quiet.import_tensorflow()
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
