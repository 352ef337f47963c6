"""Bundled datasets, each with an `input_fn(mode, params) -> tfbig.data.Source`: digits, text."""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "digits": None,
    "text": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.datasets import digits as digits, text as text
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
