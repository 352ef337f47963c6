"""`tf.estimator.tpu`: the names of tfbig.estimator.tpu, loaded on first use."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("tfbig.estimator.tpu"), name)
