"""Random changes of examples in training, each a function of (seed, step, position)."""

from tfbig.data.augmentation.augmentation import Augmentation, as_augmentation
from tfbig.data.augmentation.text import SpanCorruption, TokenMasking
from tfbig.data.augmentation.transform import Batch, Draw, Transform

__all__ = [
    "Augmentation",
    "Batch",
    "Draw",
    "SpanCorruption",
    "TokenMasking",
    "Transform",
    "as_augmentation",
]
