"""Ready-made builders, each `build(params) -> compiled keras.Model`: mlp, cnn, transformer_lm.

A builder takes a dict or ConfigDict of its params and raises an error for unknown names; it ignores
`data`, which the input_fn reads. It compiles with Adam, which a config's `optimizer` replaces.
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
