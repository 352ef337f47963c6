"""`tf.estimator.experimental`: the hooks that stop early; the rest says what to write."""

import importlib
import sys
from typing import Any

from tfbig.compat.gone import gone_estimator
from tfbig.errors import UserError

_HOOKS = (
    "make_early_stopping_hook",
    "stop_if_higher_hook",
    "stop_if_lower_hook",
    "stop_if_no_decrease_hook",
    "stop_if_no_increase_hook",
)

__all__ = [*_HOOKS]


def __getattr__(name: str) -> Any:
    instead = gone_estimator(f"experimental.{name}")
    if instead is not None:
        raise UserError(f"tf.estimator.experimental.{name} does not exist in tfbig; {instead}.")
    if name not in _HOOKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("tfbig"), name, None)
    value = value or getattr(importlib.import_module("tfbig.estimator"), name)
    setattr(sys.modules[__name__], name, value)
    return value
