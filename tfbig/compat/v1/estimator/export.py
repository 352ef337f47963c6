"""`tf.estimator.export`: the names of tfbig.estimator.export; others raise errors with advice."""

import importlib
from typing import Any

from tfbig.compat.gone import gone_estimator
from tfbig.errors import UserError


def __getattr__(name: str) -> Any:
    instead = gone_estimator(f"export.{name}")
    if instead is not None:
        raise UserError(f"tf.estimator.export.{name} does not exist in tfbig; {instead}.")
    return getattr(importlib.import_module("tfbig.estimator.export"), name)
