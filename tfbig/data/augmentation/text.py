"""Corrupted text for pretraining tasks: masked tokens, and spans replaced by sentinels."""

import numbers
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.augmentation.transform import Batch, Draw, Transform
from tfbig.errors import UserError


class _Corruption(Transform):
    """Creates examples of a task from tokens only.

    In training, the random numbers are a function of (seed, step, position). In evaluation, they
    are a function of the tokens, so that every evaluation has the same task.
    """

    moves = True
    _draws: int  # rows of uniform numbers per sequence
    _extra = 0  # length of a row minus length of the sequence

    def train(self, batch: Batch, draw: Draw, positions: np.ndarray, wanted: np.ndarray) -> Batch:
        tokens = self._checked(batch)
        shape = [draw.batch_size, self._draws, tokens.shape[1] + self._extra]
        return self._corrupted(tokens, draw.rng().random(shape)[positions])

    def evaluate(self, batch: Batch) -> Batch:
        tokens = self._checked(batch)
        uniform = np.empty([len(tokens), self._draws, tokens.shape[1] + self._extra])
        for row, numbers_of_row in zip(tokens, uniform, strict=True):
            key = zlib.crc32(np.ascontiguousarray(row, "<i8").tobytes())
            np.random.Generator(np.random.Philox(key)).random(out=numbers_of_row)
        return self._corrupted(tokens, uniform)

    def _corrupted(self, tokens: np.ndarray, uniform: np.ndarray) -> Batch:
        """The task for tokens [n, length], with numbers [n, _draws, length + _extra] in [0, 1)."""
        raise NotImplementedError

    def _checked(self, batch: Batch) -> np.ndarray:
        tokens = np.asarray(batch.features)
        self._check(Batch(tf.TensorSpec(tokens.shape[1:], tf.as_dtype(tokens.dtype)), *batch[1:]))
        return tokens

    def _check(self, spec: Batch) -> None:
        tokens = spec.features
        if tokens.shape.rank != 1 or not tokens.dtype.is_integer or not tokens.shape[0]:
            raise UserError(
                f"{self.name} needs sequences of token ids, integers of shape [length]; "
                f"received {tokens.dtype.name} of shape {list(tokens.shape)}."
            )
        if spec.labels is not None or spec.weight is not None:
            raise UserError(
                f"{self.name} creates the labels from the tokens, but the batches have labels; "
                "use source.map(lambda batch: batch[0])."
            )


class TokenMasking(_Corruption):
    """Masked language modeling: `(masked tokens, labels=tokens, weight=1 for chosen tokens)`.

    Each token is chosen with probability `rate`. Of the chosen tokens, 80 % become the mask token,
    10 % a random token, and 10 % do not change (Devlin et al., "BERT", 2019; chosen independently
    as in RoBERTa, Liu et al., 2019).

    Example:

        source = source.augment([
            {"name": "TokenMasking", "mask_token": 4, "vocabulary_size": 8000, "special": [0, 1]},
        ])

    Args:
        mask_token: id of the mask token.
        vocabulary_size: random tokens are in [0, vocabulary_size).
        rate: fraction of tokens that are chosen, between 0 and 1.
        special: ids of tokens that are never chosen: padding, separators.
        masked, random: fractions of the chosen tokens that become the mask token and a random
            token; the others do not change.
    """

    _draws = 2

    def __init__(
        self,
        mask_token: int,
        vocabulary_size: int,
        rate: float = 0.15,
        special: Sequence[int] = (),
        masked: float = 0.8,
        random: float = 0.1,
    ):
        _check_whole(self.name, mask_token=mask_token)
        _check_whole(self.name, 1, vocabulary_size=vocabulary_size)
        _check_rate(self.name, rate)
        for name, share in (("masked", masked), ("random", random), ("masked + random", None)):
            share = masked + random if share is None else share
            if not 0 <= share <= 1 + 1e-9:
                raise UserError(f"{self.name}: {name}={share!r}: expected a fraction from 0 to 1.")
        self.mask_token, self.vocabulary_size, self.rate = mask_token, vocabulary_size, rate
        self.special = np.asarray(special, np.int64).reshape(-1)
        self.masked, self.random = masked, random

    @override
    def output_spec(self, spec: Batch) -> Batch:
        self._check(spec)
        tokens = spec.features
        return Batch(tokens, tokens, tf.TensorSpec(tokens.shape, tf.float32))

    def _corrupted(self, tokens: np.ndarray, uniform: np.ndarray) -> Batch:
        chosen = uniform[:, 0] < self.rate
        if len(self.special):
            chosen &= ~np.isin(tokens, self.special)
        # Rescaled to [0, 1), the same random number decides the replacement.
        fate = uniform[:, 0] / self.rate
        any_token = (uniform[:, 1] * self.vocabulary_size).astype(tokens.dtype)
        new = np.where(fate < self.masked, tokens.dtype.type(self.mask_token), tokens)
        new = np.where((fate >= self.masked) & (fate < self.masked + self.random), any_token, new)
        return Batch(np.where(chosen, new, tokens), tokens, chosen.astype(np.float32))


class SpanCorruption(_Corruption):
    """Text to text: `(inputs, labels=targets, weight=1 for targets that are not padding)`.

    In the inputs, a sentinel replaces each chosen span of tokens. The targets are the sentinels,
    each followed by the tokens of its span, and a final sentinel (Raffel et al., "T5", 2020). The
    spans have random lengths with the mean `mean_length`, and contain a fraction `rate` of the
    tokens.

    Example: Thank you for inviting me to your party last week
        inputs: Thank you <X> me to your party <Y> week
        targets: <X> for inviting <Y> last <Z>

    Args:
        first_sentinel: id of the first sentinel, <X>; the next sentinels have descending ids.
        pad: id of the padding of inputs and targets; padding at the end of the tokens is ignored.
        rate: fraction of tokens in spans, between 0 and 1.
        mean_length: mean length of the spans in tokens, at least 1.
        inputs_length, targets_length: lengths in every example; None: as long as sequences of the
            given length need.
    """

    _draws, _extra = 2, 2

    def __init__(
        self,
        first_sentinel: int,
        pad: int,
        rate: float = 0.15,
        mean_length: float = 3,
        inputs_length: int | None = None,
        targets_length: int | None = None,
    ):
        _check_whole(self.name, first_sentinel=first_sentinel, pad=pad)
        _check_rate(self.name, rate)
        if not isinstance(mean_length, numbers.Real) or mean_length < 1:
            raise UserError(f"{self.name}: mean_length={mean_length!r}: expected 1 or more.")
        for name, length in (("inputs_length", inputs_length), ("targets_length", targets_length)):
            if length is not None:
                _check_whole(self.name, 1, **{name: length})
        self.first_sentinel, self.pad = first_sentinel, pad
        self.rate, self.mean_length = rate, mean_length
        self.inputs_length, self.targets_length = inputs_length, targets_length

    @override
    def output_spec(self, spec: Batch) -> Batch:
        self._check(spec)
        inputs, targets = self._lengths(spec.features.shape[0])
        return Batch(
            tf.TensorSpec([inputs], spec.features.dtype),
            tf.TensorSpec([targets], spec.features.dtype),
            tf.TensorSpec([targets], tf.float32),
        )

    def _lengths(self, length: int) -> tuple[int, int]:
        """The lengths of inputs and targets for sequences of up to `length` tokens."""
        lengths = np.arange(length + 1)
        noise, spans = self._amounts(lengths)
        needed = int((lengths - noise + spans).max()), int((noise + spans + 1).max())
        if self.first_sentinel - int(spans.max()) < 0:
            raise UserError(
                f"{self.name}: {spans.max()} spans need {spans.max() + 1} sentinels, but "
                f"first_sentinel={self.first_sentinel} allows {self.first_sentinel + 1}."
            )
        given = []
        for name, need in zip(("inputs_length", "targets_length"), needed, strict=True):
            set_to = getattr(self, name)
            if set_to is not None and set_to < need:
                raise UserError(
                    f"{self.name}: {name}={set_to} is too short: sequences of {length} tokens "
                    f"need {need}."
                )
            given.append(set_to or need)
        return given[0], given[1]

    def _amounts(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of tokens in spans, and of spans, per sequence; 0 for one token or less."""
        noise = np.clip(np.rint(lengths * self.rate), 1, np.maximum(lengths - 1, 1)).astype(int)
        spans = np.clip(
            np.rint(noise / self.mean_length), 1, np.minimum(noise, lengths - noise + 1)
        )
        text = lengths > 1
        return np.where(text, noise, 0), np.where(text, spans, 0).astype(int)

    def _corrupted(self, tokens: np.ndarray, uniform: np.ndarray) -> Batch:
        length = tokens.shape[1]
        inputs_length, targets_length = self._lengths(length)
        lengths = length - np.argmax((tokens != self.pad)[:, ::-1], axis=1)
        lengths = np.where((tokens != self.pad).any(axis=1), lengths, 0)
        noise, spans = self._amounts(lengths)
        segment = self._segments(lengths, noise, spans, uniform)
        index = np.arange(length)
        text = index < lengths[:, None]
        taken = (segment % 2 == 1) & text
        first = taken & (np.diff(segment, axis=1, prepend=-1) != 0)
        sentinel = (self.first_sentinel - segment // 2).astype(tokens.dtype)
        inputs = self._compact(
            np.where(first, sentinel, tokens), text & (~taken | first), inputs_length
        )
        # Twice the length: the sentinel of a span precedes its first token.
        both = np.stack([sentinel, tokens], axis=2).reshape(len(tokens), -1)
        used = np.stack([first, taken], axis=2).reshape(len(tokens), -1)
        targets = self._compact(both, used, targets_length)
        end = used.sum(axis=1)
        targets[np.arange(len(tokens)), end] = self.first_sentinel - spans
        weight = (np.arange(targets_length) <= end[:, None]).astype(np.float32)
        return Batch(inputs, targets, weight)

    def _segments(
        self, lengths: np.ndarray, noise: np.ndarray, spans: np.ndarray, uniform: np.ndarray
    ) -> np.ndarray:
        """The segment of each token; even segments are kept, odd ones are spans."""
        n, length = uniform.shape[0], uniform.shape[2] - self._extra
        most = max(int(spans.max(initial=0)), 1) + 1
        kept = _sizes(lengths - noise + 2, spans + 1, uniform[:, 0], most)
        kept[:, 0] -= 1  # the first and the last kept part may be empty
        kept[np.arange(n), spans] -= 1
        sizes = np.stack([kept, _sizes(noise, spans, uniform[:, 1], most)], axis=2)
        ends = np.cumsum(sizes.reshape(n, -1), axis=1)
        marks = np.zeros([n, length + 1], np.int64)
        np.add.at(marks, (np.arange(n)[:, None], ends), 1)
        return np.cumsum(marks[:, :length], axis=1)

    def _compact(self, values: np.ndarray, used: np.ndarray, length: int) -> np.ndarray:
        """Moves the used values of each row to the left and pads the row to `length`."""
        compacted = np.full([len(values), length], self.pad, values.dtype)
        rows, columns = np.nonzero(used)
        compacted[rows, np.cumsum(used, axis=1)[rows, columns] - 1] = values[rows, columns]
        return compacted


def _sizes(total: np.ndarray, parts: np.ndarray, uniform: np.ndarray, most: int) -> np.ndarray:
    """Divides `total` into `parts` positive sizes, all divisions with the same probability.

    Args:
        total, parts: int [n].
        uniform: [n, length] random numbers.
        most: the largest number of parts.

    Returns:
        int [n, most]: the sizes, then zeros.
    """
    n, length = uniform.shape
    index = np.arange(length)
    may_start = (index > 0) & (index < total[:, None])
    order = np.argsort(np.where(may_start, uniform, 2.0), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, index[None, :], axis=1)
    part = np.cumsum(may_start & (rank < parts[:, None] - 1), axis=1)
    inside = (index < total[:, None]) & (parts[:, None] > 0)
    numbered = part + most * np.arange(n)[:, None]
    return np.bincount(numbered[inside], minlength=n * most).reshape(n, most)


def _check_whole(owner: str, least: int = 0, **values: int) -> None:
    for name, value in values.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < least:
            raise UserError(f"{owner}: {name}={value!r}: expected an integer, {least} or more.")


def _check_rate(owner: str, rate: float) -> None:
    if not isinstance(rate, numbers.Real) or not 0 < rate < 1:
        raise UserError(f"{owner}: rate={rate!r}: expected a fraction between 0 and 1.")
