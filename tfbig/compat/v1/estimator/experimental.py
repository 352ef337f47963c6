"""`tf.estimator.experimental`: the early-stopping hooks; other names raise errors with advice."""

import importlib
import sys
from typing import Any

from tfbig.compat.gone import gone_estimator
from tfbig.compat.names import STOPPING
from tfbig.errors import UserError

__all__ = [*STOPPING]


def __getattr__(name: str) -> Any:
    instead = gone_estimator(f"experimental.{name}")
    if instead is not None:
        raise UserError(f"tf.estimator.experimental.{name} does not exist in tfbig; {instead}.")
    if name not in STOPPING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("tfbig.estimator"), name)
    setattr(sys.modules[__name__], name, value)
    return value
