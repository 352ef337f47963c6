"""`tf.compat.v1.layers`: its functions, with TF1's arguments, variable names and numbers.

Importing this module is cheap: each name is loaded on its first use.
"""

from tfbig import _lazy
from tfbig.compat.gone import gone_layer
from tfbig.compat.names import LAYERS
from tfbig.errors import UserError

__all__ = list(LAYERS)

_load, __dir__ = _lazy.lazy(__name__, LAYERS)


def __getattr__(name: str):
    instead = gone_layer(name)
    if instead is not None:
        raise UserError(f"tfbig.compat.v1.layers.{name} does not exist; {instead}.")
    return _load(name)
