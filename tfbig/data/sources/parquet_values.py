"""Converts columns of pyarrow to NumPy arrays."""

from typing import Any, NamedTuple

import numpy as np

from tfbig._optional import load
from tfbig.data.sources.csv_values import as_float32, as_texts
from tfbig.data.sources.row_cache import Column

_NO_TIME = np.iinfo(np.int64).min  # what NumPy's datetime64 calls NaT


class Kind(NamedTuple):
    """The kind of array that a column is converted to.

    Attributes:
        name: as Column.kind.
        shape: as Column.shape; (None,): lists of unknown length.
        is_time: whether the values are times, whose missing value is NaT.
    """

    name: str
    shape: tuple[int | None, ...] = ()
    is_time: bool = False

    @property
    def may_not_miss(self) -> bool:
        """Whether the kind has no missing value, so that missing values need another kind."""
        return self.name in ("int64", "bool") and not self.shape and not self.is_time

    def fits(self, column: Column) -> bool:
        """Whether its values can be converted to those of a column."""
        widened = column.kind == "float32" and self.name in ("int64", "bool") and not self.is_time
        same_shape = self.shape == column.shape or (
            self.shape == (None,) and len(column.shape) == 1
        )
        return same_shape and (self.name == column.kind or widened)


def kind_of(type_: Any) -> Kind | None:
    """The kind for values of a pyarrow type; None: they cannot be an array."""
    pa = load("pyarrow", "ParquetSource")

    t = pa.types
    if t.is_dictionary(type_):
        return kind_of(type_.value_type)
    if t.is_fixed_size_list(type_) or t.is_list(type_) or t.is_large_list(type_):
        inner = kind_of(type_.value_type)
        if inner is None or inner.shape or inner.name in ("string", "bytes"):
            return None
        return inner._replace(shape=(type_.list_size if t.is_fixed_size_list(type_) else None,))
    if t.is_temporal(type_) and not t.is_interval(type_):
        return Kind("int64", is_time=True)
    tests = [
        (t.is_boolean, "bool"),
        (t.is_integer, "int64"),
        (lambda one: t.is_floating(one) or t.is_decimal(one) or t.is_null(one), "float32"),
        (lambda one: t.is_string(one) or t.is_large_string(one) or t.is_string_view(one), "string"),
        (lambda one: t.is_binary(one) or t.is_large_binary(one), "bytes"),
        (lambda one: t.is_fixed_size_binary(one) or t.is_binary_view(one), "bytes"),
    ]
    return next((Kind(name) for test, name in tests if test(type_)), None)


def unit_of(type_: Any) -> str | None:
    """The unit of a type of times, such as "timestamp[ms]" in UTC; None for other types."""
    pa = load("pyarrow", "ParquetSource")

    kind = kind_of(type_)
    if kind is None or not kind.is_time:
        return None
    while not pa.types.is_temporal(type_):
        type_ = type_.value_type
    return f"timestamp[{type_.unit}]" if pa.types.is_timestamp(type_) else str(type_)


def widest(one: Kind, other: Kind) -> Kind:
    """The narrowest kind that fits the values of both kinds, if there is one; else the first."""
    shape = other.shape if one.shape == (None,) else one.shape
    numbers = {one.name, other.name} <= {"int64", "float32", "bool"}
    if one.name != other.name and numbers and not (one.is_time or other.is_time):
        return Kind("float32", shape)
    return one._replace(shape=shape)


def list_length(array: Any) -> int | None:
    """The length of the first non-empty list, else 0; None: all lists are missing."""
    pc = load("pyarrow.compute", "ParquetSource")

    lengths = pc.list_value_length(array).drop_null()
    filled = lengths.filter(pc.greater(lengths, 0))  # an empty list may mean a missing one
    lengths = filled if len(filled) else lengths
    return lengths[0].as_py() if len(lengths) else None


def as_values(array: Any, column: Column) -> tuple[Any, dict[int, str]]:
    """Converts the values of a column.

    Returns:
        (values, wrong): an array of shape [n, *column.shape], or for texts a pyarrow Array without
        nulls; and the reasons of invalid values by row.
    """
    pa = load("pyarrow", "ParquetSource")

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if column.shape:
        return _as_lists(array, column)
    if column.kind == "string":
        texts, wrong = as_texts(array.cast(pa.binary()))
        return texts.fill_null(""), wrong
    if column.kind == "bytes":
        return array.cast(pa.binary()).fill_null(b""), {}
    if column.kind == "float32":
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return as_float32(values, {})
    return _as_whole(array, column.kind)


def _as_whole(array: Any, kind: str) -> tuple[np.ndarray, dict[int, str]]:
    """Integers, truth values and times."""
    pa = load("pyarrow", "ParquetSource")

    missing = array.is_null().to_numpy(zero_copy_only=False)
    is_time = pa.types.is_temporal(array.type)
    if is_time:
        array = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())
    wrong = (
        {}
        if is_time
        else dict.fromkeys(
            np.flatnonzero(missing).tolist(), f"is missing, but {kind} has no missing value"
        )
    )
    values = array.fill_null(False if kind == "bool" else 0).to_numpy(zero_copy_only=False)
    if values.dtype == np.uint64:
        for row in np.flatnonzero(values > np.uint64(2**63 - 1)).tolist():
            wrong[row] = f"has {values[row]}, which is too large for int64"
    values = values.astype(bool if kind == "bool" else np.int64)
    if is_time and missing.any():
        values[missing] = _NO_TIME
    return values, wrong


def _as_lists(array: Any, column: Column) -> tuple[np.ndarray, dict[int, str]]:
    pc = load("pyarrow.compute", "ParquetSource")

    [length] = column.shape
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    wrong = {}
    for row in np.flatnonzero(lengths != length).tolist():
        if lengths[row] >= 0:
            wrong[row] = f"is a list of {lengths[row]} numbers, not of {length}"
        elif column.kind != "float32":
            wrong[row] = f"is missing, but {column.kind} has no missing value"
    good = np.flatnonzero(lengths == length)
    inner = array.filter(lengths == length).flatten()
    numbers, bad = as_values(inner, Column(column.name, column.kind))
    for index, reason in bad.items():
        wrong.setdefault(int(good[index // length]), f"{reason} (at index {index % length})")
    missing = np.nan if column.kind == "float32" else 0
    values = np.full([len(array), length], missing, numbers.dtype)
    values[good] = numbers.reshape(len(good), length)
    return values, wrong
