"""The Keras metric BitsPerByte, for byte-level language models."""

import math
from typing import Any

import keras
from typing_extensions import override


@keras.saving.register_keras_serializable("tfbig")
def bits_per_byte(y_true: Any, y_pred: Any) -> Any:
    """Returns the cross-entropy of the next byte in bits, for each position.

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
    """The mean number of bits per byte of a byte-level language model; 8 without any model.

    Unlike the perplexity per token, it is comparable between models with different vocabularies.

    Example:

        model.compile("adam", loss, metrics=[BitsPerByte()])

    Args:
        name: the name of the metric.
        dtype: the dtype of the result.
    """

    def __init__(self, name: str = "bits_per_byte", dtype: str | None = None):
        super().__init__(fn=bits_per_byte, name=name, dtype=dtype)
        self._direction = "down"

    @override
    def get_config(self) -> dict:
        return {"name": self.name, "dtype": self.dtype}
