"""What migrated programs need of `tf.contrib`, which was removed with TensorFlow 2.0.

Importing this module is cheap: each name is loaded on its first use.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "layers": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.compat.v1.contrib import layers as layers
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
