"""Serialized records become batches of arrays: what `parse` asks for, and the records that fail."""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfbig.errors import UserError

Parse = Mapping[str, tf.io.FixedLenFeature] | Callable[[np.ndarray], Any] | None

# What says that a record is bad, and not that the program is wrong.
_ERRORS = (
    ValueError,
    struct.error,
    DecodeError,
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
)
_KINDS = {tf.float32: "float_list", tf.int64: "int64_list", tf.string: "bytes_list"}
_NO_EXAMPLE = "it is not a serialized tf.train.Example"


class RecordParser:
    """Makes batches of serialized records.

    Args:
        parse: the features of a tf.train.Example by name; or a function of an object array of
            n bytes that returns a batch; or None, for the bytes themselves.
        labels: with features: the one that becomes the labels of (features, labels).
        owner: whose argument parse is, for messages.

    Raises:
        UserError: the features cannot be parsed to arrays of one shape, or labels is none of them.
    """

    def __init__(self, parse: Parse, labels: str | None, owner: str):
        self._owner, self._labels = owner, labels
        if isinstance(parse, Mapping):
            self._features: dict | None = dict(parse)
            self._parse: Callable[[np.ndarray], Any] = self._examples
            _check_features(self._features, owner)
            if labels is not None and labels not in self._features:
                raise UserError(
                    f"{owner}: labels={labels!r} is none of the features {sorted(self._features)}."
                )
            return
        if labels is not None:
            raise UserError(
                f"{owner}: labels={labels!r} needs parse={{name: tf.io.FixedLenFeature(…)}}; a "
                "function returns (features, labels) itself."
            )
        if parse is not None and not callable(parse):
            raise UserError(
                f"{owner}: parse={parse!r} is neither a dict of tf.io.FixedLenFeature nor a "
                "function of an array of bytes."
            )
        self._features, self._parse = None, parse or (lambda records: records)

    def __call__(self, records: np.ndarray) -> tuple[Any, list[tuple[int, str]]]:
        """Parses all records in one go.

        Args:
            records: object array of n bytes.

        Returns:
            (batch, []), or (None, [(place, reason), …]) when some records cannot be parsed.
        """
        try:
            return self._batch(records), []
        except _ERRORS:
            bad = self._unlike(records) or self._halved(records, 0)
            if not bad:  # each is good by itself, so that it is not the data that are wrong
                raise
            return None, bad

    def _unlike(self, records: np.ndarray) -> list[tuple[int, str]]:
        """Which are no examples with the features, without the log line of a failing operation."""
        if self._features is None:
            return []
        reasons = [_unlike(record, self._features) for record in records]
        return [(place, reason) for place, reason in enumerate(reasons) if reason]

    def _halved(self, records: np.ndarray, first: int) -> list[tuple[int, str]]:
        """Which records fail, by halving those that do."""
        try:
            self._batch(records)
            return []
        except UserError:  # which is a ValueError, but about the program
            raise
        except _ERRORS as error:
            if len(records) < 2:
                return [(first, _reason(error))] if len(records) else []
        half = len(records) // 2
        return self._halved(records[:half], first) + self._halved(records[half:], first + half)

    def _batch(self, records: np.ndarray) -> Any:
        with tf.device("CPU:0"):
            batch = self._parse(records)
        return tf.nest.map_structure(lambda leaf: self._array(leaf, len(records)), batch)

    def _examples(self, records: np.ndarray) -> Any:
        features = tf.io.parse_example(records, self._features)
        if self._labels is None:
            return features
        labels = features.pop(self._labels)
        return features, labels

    def _array(self, leaf: Any, count: int) -> np.ndarray:
        if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
            raise UserError(
                f"{self._owner}: parse returned a {type(leaf).__name__}, but a batch has arrays "
                "of one shape; pad to a fixed length, for example with "
                "ragged.to_tensor(shape=[None, 128])."
            )
        array = leaf.numpy() if tf.is_tensor(leaf) else np.asarray(leaf)
        if array.ndim == 0 or len(array) != count:
            raise UserError(
                f"{self._owner}: for {count} records parse returned an array of shape "
                f"{list(array.shape)}; its first dimension must be the number of records."
            )
        if array.dtype == np.float64:
            return array.astype(np.float32)
        return array.astype(object) if array.dtype.kind in "US" else array


def _check_features(features: dict[str, Any], owner: str) -> None:
    for name, feature in features.items():
        if not isinstance(name, str):
            raise UserError(f"{owner}: parse has the key {name!r}; keys are names of features.")
        if not isinstance(feature, tf.io.FixedLenFeature):
            raise UserError(
                f"{owner}: parse[{name!r}] is a {type(feature).__name__}, whose length differs "
                "between records, but a batch has arrays of one shape. Use tf.io.FixedLenFeature, "
                "or pad in a function: parse=lambda records: tf.io.parse_example(records, "
                f"{{{name!r}: tf.io.RaggedFeature(tf.int64)}})[{name!r}]"
                ".to_tensor(shape=[None, 128])."
            )
    try:
        with tf.device("CPU:0"):
            tf.io.parse_example(tf.constant([], tf.string), features)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise UserError(f"{owner}: parse cannot be used: {_reason(error)}.") from error


def _unlike(record: bytes, features: dict[str, Any]) -> str:
    """Why a record is no example with these features, or ""."""
    try:
        found = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return _NO_EXAMPLE
    for name, feature in features.items():
        kind = found[name].WhichOneof("kind") if name in found else None
        if kind is None:
            if feature.default_value is None:
                return f"it has no feature {name!r}"
            continue
        expected = _KINDS[tf.as_dtype(feature.dtype)]
        if kind != expected:
            return f"its feature {name!r} is a {kind}, not a {expected}"
        count, needed = (
            len(getattr(found[name], kind).value),
            tf.TensorShape(feature.shape).num_elements(),
        )
        if count != needed:
            return f"its feature {name!r} has {count} values, not {needed}"
    return ""


def _reason(error: Exception) -> str:
    """The part of a message that is about the record, on one line and without a full stop."""
    text = str(getattr(error, "message", None) or error)
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w*\].*|; NodeDef.*", " ", text, flags=re.S)
    text = " ".join(text.split()).rstrip(".")
    return f"it cannot be parsed: {text[:300] or type(error).__name__}"
