"""`tf.estimator.inputs`: the names of tfbig.estimator.inputs, loaded on first use."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("tfbig.estimator.inputs"), name)
