"""Which examples, in what order: sources with random access and what is done to them."""

# ruff: noqa: E402 - TensorFlow is imported before the modules that use it
from tfbig import _quiet

_quiet.import_tensorflow()

from tfbig.data.array_source import ArraySource
from tfbig.data.class_weight import with_class_weight
from tfbig.data.source import Source

__all__ = ["ArraySource", "Source", "with_class_weight"]
