"""Ready-made builders, each `build(params) -> compiled keras.Model`: mlp, cnn, transformer_lm.

A builder takes a dict or ConfigDict of its own names, refuses names that it does not know, and
leaves `data` to the input_fn. It compiles with Adam; a config's `optimizer` takes its place.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "cnn": None,
    "mlp": None,
    "transformer_lm": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.models import cnn as cnn, mlp as mlp, transformer_lm as transformer_lm
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
