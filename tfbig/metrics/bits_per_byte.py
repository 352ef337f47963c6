"""The Keras metric of byte-level language models; Keras has none."""

import math
from typing import Any

import keras


@keras.saving.register_keras_serializable("tfbig")
def bits_per_byte(y_true: Any, y_pred: Any) -> Any:
    """The cross-entropy of next bytes in bits, per token.

    Args:
        y_true: int tensor of shape [...], the bytes.
        y_pred: float tensor of shape [..., 256], the logits.

    Returns:
        A float tensor of shape [...].
    """
    nats = keras.ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
    return nats / math.log(2)


@keras.saving.register_keras_serializable("tfbig")
class BitsPerByte(keras.metrics.MeanMetricWrapper):
    """The mean number of bits a byte-level language model needs for a byte; 8 is no model at all.

    Unlike the perplexity of tokens it compares models with different vocabularies.

    Example:

        model.compile("adam", loss, metrics=[BitsPerByte()])

    Args:
        name: name of the metric.
        dtype: dtype of the result.
    """

    def __init__(self, name: str = "bits_per_byte", dtype: str | None = None):
        super().__init__(fn=bits_per_byte, name=name, dtype=dtype)
        self._direction = "down"

    def get_config(self) -> dict:
        return {"name": self.name, "dtype": self.dtype}
