"""Metrics of language models, per token."""

import dataclasses
import math
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.metrics.class_reader import LogitDetector, check_columns, class_numbers, sum_tolerance
from tfbig.metrics.metric import (
    BatchReader,
    Metric,
    MetricBatch,
    as_floats,
    read_weights,
    weighted_sum,
)

_MOST_LOGITS = 4_000_000  # float64 values in one softmax: 32 MB


@dataclasses.dataclass
class TokenBatch(MetricBatch):
    """Tokens of all sequences, concatenated.

    Attributes:
        labels: int64 [tokens].
        nats: float64 [tokens], -log(probability of the label).
    """

    labels: np.ndarray
    nats: np.ndarray


class TokenReader(BatchReader):
    """Reads next tokens and their logits or probabilities.

    Args:
        from_logits: True, False or "auto", as in `tfbig.metrics.class_reader.LogitDetector`.
    """

    def __init__(self, from_logits: bool | str = "auto"):
        self.logit_detector = LogitDetector(from_logits)

    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> TokenBatch:
        """Reads a batch.

        Args:
            labels: token numbers [n, t] or [n].
            predictions: logits or probabilities [n, t, vocabulary] or [n, vocabulary].
            weights: None, a mask or weights of the shape of the labels, or one weight per
                sequence [n]. Labels of weight 0 are not checked; padding may be -1.
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
        logits = self.logit_detector.are_logits(values, tolerance)
        nats = np.empty(len(values))
        rows = max(1, _MOST_LOGITS // vocabulary)
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            nats[part] = _nats(values[part], numbers[part], logits)
        return TokenBatch(weight, numbers, nats)


class _PerToken(Metric):
    def __init__(self, name: str, reader: TokenReader | None):
        super().__init__(name, reader or TokenReader())

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
    """exp(mean nats per token), the effective number of equally likely tokens; 1 is perfect.

    Example:

        metric = Perplexity()
        metric.update(np.array([[1, 2]]), np.zeros([1, 2, 256]))
        metric.result()  # 256.0

    Args:
        reader: a TokenReader.
        name: the key in `metrics.json`.
    """

    def __init__(self, reader: TokenReader | None = None, name: str = "perplexity"):
        super().__init__(name, reader)

    @override
    def result(self) -> float:
        return math.inf if self._mean > 709 else math.exp(self._mean)


class BitsPerByte(_PerToken):
    """The mean number of bits per byte of text; 8 without any model.

    It is the counterpart on the host of the Keras metric
    `tfbig.evaluation.metrics.BitsPerByte`, with weights and masks.

    Args:
        reader, name: as in `Perplexity`.
        token_bytes: int [vocabulary], the number of bytes of each token; None if every token is
            a byte.
    """

    def __init__(
        self,
        reader: TokenReader | None = None,
        name: str = "bits_per_byte",
        token_bytes: Any = None,
    ):
        self._token_bytes = None if token_bytes is None else np.asarray(token_bytes)
        super().__init__(name, reader)

    def _sizes(self, batch: TokenBatch) -> np.ndarray:
        if self._token_bytes is None:
            return np.ones(len(batch.labels))
        if len(batch.labels) and batch.labels.max() >= len(self._token_bytes):
            raise UserError(
                f"token_bytes has {len(self._token_bytes)} entries, but a label is "
                f"{batch.labels.max()}; pass the number of bytes of every token."
            )
        return self._token_bytes[batch.labels]

    @override
    def result(self) -> float:
        return self._mean / math.log(2)


def _nats(values: np.ndarray, numbers: np.ndarray, logits: bool) -> np.ndarray:
    values = values.astype(np.float64)
    own = np.take_along_axis(values, numbers[:, None], axis=1)[:, 0]
    if not logits:
        return -np.log(np.maximum(own, np.finfo(np.float32).tiny))
    highest = values.max(axis=1)
    return np.log(np.exp(values - highest[:, None]).sum(axis=1)) - (own - highest)
