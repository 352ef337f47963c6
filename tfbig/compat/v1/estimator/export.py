"""`tf.estimator.export`: the names of tfbig.estimator.export, loaded on first use."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("tfbig.estimator.export"), name)
