"""Operations on the values of one column, for NumPy arrays and for tensors.

Each function does the same to both, so that serving cleans an example exactly as training does.
"""

import math
import re
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig._optional import load

_SPACE = r"[ \t\r\n]*"
_NUMBER = _SPACE + r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?" + _SPACE
_INTEGER = _SPACE + r"[+-]?[0-9]{1,18}" + _SPACE  # 18 digits always fit into int64


def is_text(values: Any) -> bool:
    """Whether a column holds strings, as tf.string, S, U or an object array."""
    return values.dtype == tf.string if tf.is_tensor(values) else values.dtype.kind in "OSU"


def is_floating(values: Any) -> bool:
    """Whether a column holds numbers that may be NaN."""
    return values.dtype.is_floating if tf.is_tensor(values) else values.dtype.kind == "f"


def missing(values: Any) -> Any:
    """Whether each value is missing (NaN, the empty string, None): bool, shape of `values`."""
    if tf.is_tensor(values):
        if is_text(values):
            return tf.equal(values, "")
        return tf.math.is_nan(values) if is_floating(values) else tf.zeros_like(values, tf.bool)
    if values.dtype.kind == "O":
        pd = load("pandas", "cleaning")

        return pd.isna(values) | (values == "") | (values == b"")
    if is_text(values):
        return values == values.dtype.type()
    return np.isnan(values) if is_floating(values) else np.zeros(values.shape, bool)


def filled(values: Any, value: float | str) -> Any:
    """Replaces missing values with `value`."""
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if tf.is_tensor(values):
        return tf.where(missing(values), tf.constant(value, values.dtype), values)
    if isinstance(value, bytes) and not _holds_bytes(values):
        value = value.decode("utf-8", "surrogateescape")
    if is_text(values):
        return np.where(missing(values), np.array(value, values.dtype.kind), values)
    return np.where(missing(values), values.dtype.type(value), values)


def clipped(values: Any, low: float, high: float) -> Any:
    """Clips values to [low, high]; a missing value stays missing."""
    low, high = _bounds(values, low, high)
    return (tf.clip_by_value if tf.is_tensor(values) else np.clip)(values, low, high)


def outside(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Whether each value is below low or above high; False for a missing value."""
    low, high = _bounds(values, low, high)
    return (values < low) | (values > high)


def as_float32(values: Any) -> Any:
    """Converts numbers, and strings of finite numbers, to float32; other values become NaN."""
    if tf.is_tensor(values):
        if is_text(values):
            spelled = tf.strings.regex_full_match(values, _NUMBER)
            numbers = tf.strings.to_number(tf.where(spelled, values, "0"), tf.float64)
            values = tf.where(spelled, numbers, math.nan)
        values = tf.cast(values, tf.float32)
        return tf.where(tf.math.is_finite(values), values, math.nan)
    if is_text(values):
        match = re.compile(_NUMBER).fullmatch
        numbers = (float(text) if match(text) else math.nan for text in texts(values))
        values = np.fromiter(numbers, np.float64, values.size).reshape(values.shape)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    values[~np.isfinite(values)] = math.nan
    return values


def as_integers(values: Any, dtype: str) -> tuple[Any, Any]:
    """Converts whole numbers, and strings of whole numbers, to int32 or int64.

    Returns:
        (integers, good): 0 where the bool array `good` is False.
    """
    limits = np.iinfo(dtype)
    if tf.is_tensor(values):
        if is_text(values):
            good = tf.strings.regex_full_match(values, _INTEGER)
            values = tf.strings.to_number(tf.where(good, values, "0"), tf.int64)
        elif values.dtype == tf.uint64:  # values from 2**63 on would become negative
            good = values <= tf.constant(2**63 - 1, tf.uint64)
        else:
            good = tf.ones_like(values, tf.bool)
        if is_floating(values):
            values = tf.cast(values, tf.float64)
            good = tf.equal(values, tf.floor(values)) & (tf.abs(values) < 2.0**63)
            values = tf.where(good, values, 0)
        values = tf.cast(values, tf.int64)
        good &= (values >= limits.min) & (values <= limits.max)
        return tf.cast(tf.where(good, values, 0), dtype), good
    good = np.ones(values.shape, bool)
    if is_text(values):
        match = re.compile(_INTEGER).fullmatch
        found = [int(text) if match(text) else None for text in texts(values)]
        good = np.array([number is not None for number in found], bool).reshape(values.shape)
        values = np.array([number or 0 for number in found], np.int64).reshape(values.shape)
    elif is_floating(values):
        values = values.astype(np.float64)
        good = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
        values = np.where(good, values, 0)
    elif values.dtype == np.uint64:
        good = values <= np.uint64(2**63 - 1)
    values = values.astype(np.int64)
    good = good & (values >= limits.min) & (values <= limits.max)
    return np.where(good, values, 0).astype(dtype), good


def as_text(values: Any) -> Any:
    """Converts integers to decimal strings; strings do not change."""
    if is_text(values):
        return values
    if tf.is_tensor(values):
        return tf.as_string(values)
    return values.astype(str).astype(object)


def texts(values: np.ndarray) -> list[str]:
    """The strings of a column as str; "" for a missing value."""
    if values.dtype.kind == "O":
        values = np.where(missing(values), "", values)
    return [
        text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)
        for text in values.ravel().tolist()
    ]


def _holds_bytes(values: np.ndarray) -> bool:
    if values.dtype.kind != "O":
        return values.dtype.kind == "S"
    return any(isinstance(value, bytes) for value in values.flat)


def _bounds(values: Any, low: float, high: float) -> tuple[Any, Any]:
    """The bounds in the dtype of the column; for integers, the outermost integers within them."""
    dtype = values.dtype.as_numpy_dtype if tf.is_tensor(values) else values.dtype.type
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        low, high = math.ceil(low), max(math.ceil(low), math.floor(high))
        low, high = (min(max(b, limits.min), limits.max) for b in (low, high))
    return dtype(low), dtype(high)
