"""Keras layers with something to say about distribution.

Importing this module is cheap: each name is loaded on its first use.
"""

from tfbig._lazy import lazy

_MODULES = {"Dropout": "dropout", "ShardedEmbedding": "sharded_embedding"}

__all__ = list(_MODULES)

__getattr__, __dir__ = lazy(__name__, _MODULES)
