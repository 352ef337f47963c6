"""Parses serialized records to batches of arrays, and finds the records that cannot be parsed."""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfbig.errors import UserError

Parse = Mapping[str, tf.io.FixedLenFeature] | Callable[[np.ndarray], Any] | None

# Errors that mean a bad record, not a bug in the program.
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
    """Parses serialized records to batches.

    Args:
        parse: the features of a tf.train.Example by name; or a function of an object array of
            n bytes that returns a batch; or None, for the raw bytes.
        labels: with features: the name of the feature that becomes the labels.
        owner: the class with the argument `parse`, for error messages.

    Raises:
        UserError: the features have no fixed shape, or labels is not one of them.
    """

    def __init__(self, parse: Parse, labels: str | None, owner: str):
        self._owner, self._labels = owner, labels
        if isinstance(parse, Mapping):
            self._features: dict | None = dict(parse)
            self._parse: Callable[[np.ndarray], Any] = self._examples
            _check_features(self._features, owner)
            if labels is not None and labels not in self._features:
                raise UserError(
                    f"{owner}: labels={labels!r} is not one of the features "
                    f"{sorted(self._features)}."
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
        """Parses all records at once.

        Args:
            records: object array of n bytes.

        Returns:
            (batch, []), or (None, [(index, reason), …]) if some records cannot be parsed.
        """
        try:
            return self._batch(records), []
        except _ERRORS:
            bad = self._mismatch(records) or self._bisect(records, 0)
            if not bad:  # each record is good by itself, so the data are not the cause
                raise
            return None, bad

    def _mismatch(self, records: np.ndarray) -> list[tuple[int, str]]:
        """The records that do not match the features, found without running a failing op.

        A failing op would write a line to TensorFlow's log.
        """
        if self._features is None:
            return []
        reasons = [_mismatch(record, self._features) for record in records]
        return [(index, reason) for index, reason in enumerate(reasons) if reason]

    def _bisect(self, records: np.ndarray, first: int) -> list[tuple[int, str]]:
        """The records that cannot be parsed, found by bisection."""
        try:
            self._batch(records)
            return []
        except UserError:  # a ValueError, but a bug in the program
            raise
        except _ERRORS as error:
            if len(records) < 2:
                return [(first, _reason(error))] if len(records) else []
        half = len(records) // 2
        return self._bisect(records[:half], first) + self._bisect(records[half:], first + half)

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
                f"{self._owner}: for {count} records, parse returned an array of shape "
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


def _mismatch(record: bytes, features: dict[str, Any]) -> str:
    """The reason why a record is not an example with these features, or ""."""
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
    """The part of an error message about the record, on one line and without a full stop."""
    text = str(getattr(error, "message", None) or error)
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w*\].*|; NodeDef.*", " ", text, flags=re.S)
    text = " ".join(text.split()).rstrip(".")
    return f"it cannot be parsed: {text[:300] or type(error).__name__}"
