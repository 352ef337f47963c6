"""Names of TF1 that TensorFlow 2.21 has removed: layers, estimator, nn.rnn_cell, part of contrib.

All other names of TF1 are still in `tf.compat.v1` itself.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "contrib": None,
    "estimator": None,
    "layers": None,
    "nn": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.compat.v1 import (
        contrib as contrib,
        estimator as estimator,
        layers as layers,
        nn as nn,
    )
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
