"""What older code needs and TensorFlow no longer has: `tfbig.compat.v1`."""

from tfbig._lazy import lazy

__all__ = ["v1"]

__getattr__, __dir__ = lazy(__name__, {"v1": None})
