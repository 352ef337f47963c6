"""Hold-out metrics by task, and the Keras metric BitsPerByte."""

from tfbig.metrics.bits_per_byte import BitsPerByte, bits_per_byte
from tfbig.metrics.tasks import metrics_for, task_of

__all__ = ["BitsPerByte", "bits_per_byte", "metrics_for", "task_of"]
