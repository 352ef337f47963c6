"""Metrics of language models, per token."""

import dataclasses
import math
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.metric import Batch, Metric, Reading, as_floats, read_weights, weighted_sum
from tfbig.metrics.reading import Scale, check_columns, class_numbers, sum_tolerance

_AT_ONCE = 4_000_000  # numbers of float64 in the softmax: 32 MB


@dataclasses.dataclass
class TokenBatch(Batch):
    """Tokens, one after the other.

    Attributes:
        labels: int64 [tokens].
        nats: float64 [tokens], -log of the probability of the label.
    """

    labels: np.ndarray
    nats: np.ndarray


class TokenReading(Reading):
    """Reads next tokens and the logits (or probabilities) for them.

    Args:
        from_logits: True, False or "auto"; see `tfbig.metrics.reading.Scale`.
    """

    def __init__(self, from_logits: bool | str = "auto"):
        self.scale = Scale(from_logits)

    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> TokenBatch:
        """Reads a batch.

        Args:
            labels: whole numbers [n, t] or [n].
            predictions: [n, t, vocabulary] or [n, vocabulary].
            weights: None, a mask or weights of the labels' shape, or one number per sequence [n].
                Labels are checked where the weight is not 0 only: a padded label may be -1.
        """
        tolerance = sum_tolerance(predictions)
        values = as_floats(predictions, "predictions")
        vocabulary = check_columns(values)
        labels = np.asarray(labels)
        outer = values.shape[:-1]
        weight = read_weights(weights, outer)
        if labels.shape in (outer, (*outer, 1)):
            labels = np.where(weight.reshape(outer) > 0, labels.reshape(outer), 0)
        numbers, _ = class_numbers(labels, values.shape)
        values = values.reshape(-1, vocabulary)
        logits = self.scale.logits(values, tolerance)
        nats = np.empty(len(values))
        rows = max(1, _AT_ONCE // vocabulary)
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            nats[part] = _nats(values[part], numbers[part], logits)
        return TokenBatch(weight, numbers, nats)


class _PerToken(Metric):
    def __init__(self, name: str, reading: TokenReading | None):
        super().__init__(name, reading or TokenReading())

    def reset(self) -> None:
        self._nats = self._size = 0.0

    def add(self, batch: TokenBatch) -> None:
        self._nats += weighted_sum(batch.nats, batch.weights)
        self._size += float(batch.weights @ self._sizes(batch))

    def _sizes(self, batch: TokenBatch) -> np.ndarray:
        return np.ones(len(batch.labels))

    @property
    def _mean(self) -> float:
        return self._nats / self._size if self._size else math.nan


class Perplexity(_PerToken):
    """exp(mean nats per token): how many tokens the model hesitates between; 1 is perfect.

    Example:

        metric = Perplexity()
        metric.update(np.array([[1, 2]]), np.zeros([1, 2, 256]))
        metric.result()  # 256.0

    Args:
        reading: a TokenReading.
        name: the key in `metrics.json`.
    """

    def __init__(self, reading: TokenReading | None = None, name: str = "perplexity"):
        super().__init__(name, reading)

    def result(self) -> float:
        return math.inf if self._mean > 709 else math.exp(self._mean)


class BitsPerByte(_PerToken):
    """The bits needed for a byte of the text; 8 is no model at all.

    The host's counterpart of the Keras metric `tfbig.evaluation.metrics.BitsPerByte`, with
    weights and masks.

    Args:
        reading, name: as in `Perplexity`.
        token_bytes: int [vocabulary], the number of bytes of each token; None: every token is a
            byte.
    """

    def __init__(
        self,
        reading: TokenReading | None = None,
        name: str = "bits_per_byte",
        token_bytes: Any = None,
    ):
        self._token_bytes = None if token_bytes is None else np.asarray(token_bytes)
        super().__init__(name, reading)

    def _sizes(self, batch: TokenBatch) -> np.ndarray:
        if self._token_bytes is None:
            return np.ones(len(batch.labels))
        if len(batch.labels) and batch.labels.max() >= len(self._token_bytes):
            raise UserError(
                f"token_bytes has {len(self._token_bytes)} entries, but a label is "
                f"{batch.labels.max()}; give the number of bytes of every token."
            )
        return self._token_bytes[batch.labels]

    def result(self) -> float:
        return self._mean / math.log(2)


def _nats(values: np.ndarray, numbers: np.ndarray, logits: bool) -> np.ndarray:
    values = values.astype(np.float64)
    own = np.take_along_axis(values, numbers[:, None], axis=1)[:, 0]
    if not logits:
        return -np.log(np.maximum(own, np.finfo(np.float32).tiny))
    highest = values.max(axis=1)
    return np.log(np.exp(values - highest[:, None]).sum(axis=1)) - (own - highest)
