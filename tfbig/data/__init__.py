"""Which examples, in what order: sources with random access and what is done to them."""

from tfbig.data.array_source import ArraySource
from tfbig.data.class_weight import with_class_weight
from tfbig.data.source import Source

__all__ = ["ArraySource", "Source", "with_class_weight"]
