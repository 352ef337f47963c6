"""The names of `tf.compat.v1.estimator`: each is tfbig's, or raises an error with advice.

    from tfbig.compat.v1 import estimator      # was: from tensorflow import estimator

They are those of tfbig.estimator, except for the canned estimators, which are those of TensorFlow
1: their losses are summed over a batch. Importing this module is cheap: each name is loaded on its
first use.
"""

import importlib
import sys
from typing import Any

from tfbig.compat.names import CANNED, FROM_TRAIN, IN_ESTIMATOR, OURS

_FOLDERS = ("experimental", "export", "inputs", "tpu")

__all__ = [*OURS, *CANNED, *IN_ESTIMATOR, *FROM_TRAIN, *_FOLDERS]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _FOLDERS:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        module = "tfbig.estimator.canned.tf1" if name in CANNED else "tfbig.estimator"
        value = getattr(importlib.import_module(module), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted([*vars(sys.modules[__name__]), *__all__])
