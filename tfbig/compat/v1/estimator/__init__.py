"""The names of `tf.estimator`: each is the tfbig object, or raises an error with advice.

    from tfbig.compat.v1 import estimator      # was: from tensorflow import estimator

Importing this module is cheap: each name is loaded on its first use.
"""

import importlib
import sys
from typing import Any

from tfbig.compat.gone import canned_model_fn, gone_estimator
from tfbig.compat.names import FROM_TRAIN, IN_ESTIMATOR, OURS
from tfbig.errors import UserError

_FOLDERS = {
    "experimental": f"{__name__}.experimental",
    "export": f"{__name__}.export",
    "inputs": "tfbig.estimator.inputs",
    "tpu": f"{__name__}.tpu",
}

__all__ = [*OURS, *IN_ESTIMATOR, *FROM_TRAIN, *_FOLDERS]


def __getattr__(name: str) -> Any:
    instead = gone_estimator(name)
    if instead is not None:
        code = canned_model_fn(name)
        raise UserError(
            f"tf.estimator.{name} does not exist in tfbig; {instead}"
            + (f", for example:\n\n{code}\n" if code else ".")
        )
    if name in OURS or name in IN_ESTIMATOR:
        value = getattr(importlib.import_module("tfbig.estimator"), name)
    elif name in FROM_TRAIN:
        value = getattr(importlib.import_module("tensorflow").compat.v1.train, name)
    elif name in _FOLDERS:
        value = importlib.import_module(_FOLDERS[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted([*vars(sys.modules[__name__]), *__all__])
