"""The functions of `tf.compat.v1.layers`, with TF1's arguments, variable names and results.

Importing this module is cheap: each name is loaded on its first use.
"""

from typing import TYPE_CHECKING, Any

from tfbig import _lazy
from tfbig.compat.gone import gone_layer
from tfbig.compat.names import LAYERS
from tfbig.errors import UserError

__all__ = list(LAYERS)

if TYPE_CHECKING:
    from tfbig.compat.v1.layers.convolution import (
        conv1d as conv1d,
        conv2d as conv2d,
        conv2d_transpose as conv2d_transpose,
        separable_conv2d as separable_conv2d,
    )
    from tfbig.compat.v1.layers.core import dense as dense, dropout as dropout, flatten as flatten
    from tfbig.compat.v1.layers.normalization import batch_normalization as batch_normalization
    from tfbig.compat.v1.layers.pooling import (
        average_pooling1d as average_pooling1d,
        average_pooling2d as average_pooling2d,
        max_pooling1d as max_pooling1d,
        max_pooling2d as max_pooling2d,
    )
else:
    _load, __dir__ = _lazy.lazy(__name__, LAYERS)

    def __getattr__(name: str) -> Any:
        instead = gone_layer(name)
        if instead is not None:
            raise UserError(f"tfbig.compat.v1.layers.{name} does not exist; {instead}.")
        return _load(name)
