"""Keras layers that support distributed training.

Importing this module is cheap: each name is loaded on its first use.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "Dropout": "dropout",
    "ShardedEmbedding": "sharded_embedding",
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.layers.dropout import Dropout as Dropout
    from tfbig.layers.sharded_embedding import ShardedEmbedding as ShardedEmbedding
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
