"""Names that older code needs and TensorFlow no longer has: `tfbig.compat.v1`."""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "v1": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.compat import v1 as v1
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
