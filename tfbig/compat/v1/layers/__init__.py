"""`tf.compat.v1.layers`: its functions, with TF1's arguments, variable names and numbers.

Importing this module is cheap: each name is loaded on its first use.
"""

from tfbig import _lazy
from tfbig.compat.gone import gone_layer
from tfbig.errors import UserError

_MODULES = {
    "average_pooling1d": "pooling",
    "average_pooling2d": "pooling",
    "batch_normalization": "normalization",
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv2d_transpose": "convolution",
    "dense": "core",
    "dropout": "core",
    "flatten": "core",
    "max_pooling1d": "pooling",
    "max_pooling2d": "pooling",
    "separable_conv2d": "convolution",
}

__all__ = list(_MODULES)

_load, __dir__ = _lazy.lazy(__name__, _MODULES)


def __getattr__(name: str):
    instead = gone_layer(name)
    if instead is not None:
        raise UserError(f"tfbig.compat.v1.layers.{name} does not exist; {instead}.")
    return _load(name)
