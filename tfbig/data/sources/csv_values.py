"""Converts the texts of a CSV column to a given type, or to the narrowest one that fits all."""

import math
from typing import Any

import numpy as np

from tfbig._optional import load
from tfbig.data.sources.column_source import shown

KINDS = ("int64", "float32", "bool", "string")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_MANY = 10  # after this many numbers, a text in the column causes a warning
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def as_texts(raw: Any) -> tuple[Any, dict[int, str]]:
    """Decodes bytes as UTF-8; invalid ones become null.

    Args:
        raw: pyarrow array of binary.

    Returns:
        (texts, bad): a pyarrow array of strings, and the reasons by row.
    """
    pa = load("pyarrow", "CsvSource")

    try:
        return raw.cast(pa.string()), {}
    except pa.ArrowInvalid:
        pass
    texts: list[str | None] = []
    bad: dict[int, str] = {}
    for row, data in enumerate(raw.to_pylist()):
        try:
            texts.append(data if data is None else data.decode())
        except UnicodeDecodeError:
            texts.append(None)
            bad[row] = f"has bytes that are not UTF-8: {shown(data)}"
    return pa.array(texts, pa.string()), bad


def as_values(texts: Any, kind: str, missing: frozenset[str]) -> tuple[Any, dict[int, str]]:
    """Converts texts to values of a kind.

    Args:
        texts: pyarrow array of strings; a missing value is null.
        kind: one of KINDS.
        missing: the texts that, without surrounding blanks, mean a missing value.

    Returns:
        (values, bad): an array, and the reasons of invalid texts by row.
    """
    if kind == "string":
        return texts.fill_null(""), {}
    values = _cast(texts, kind)
    bad: dict[int, str] = {}
    if values is None:
        values, bad = _parse_each(texts, kind, missing)
    if kind == "float32":
        return as_float32(values.to_numpy(zero_copy_only=False), bad)
    for row in np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist():
        bad.setdefault(row, f"is missing, but {kind} has no missing value; float32 has NaN")
    return values.fill_null(False if kind == "bool" else 0).to_numpy(zero_copy_only=False), bad


class Inference:
    """Finds the narrowest kind that fits all texts of a column, chunk by chunk.

    Attributes:
        numbers: number of values before the first one that is not a number.
        spoiler: the first text that is not a number, if many numbers precede it.
    """

    def __init__(self, missing: frozenset[str]):
        self._left = ["int64", "float32", "bool"]
        self._missing = missing
        self._any_missing = False
        self.numbers = 0
        self.spoiler: str | None = None

    @property
    def kind(self) -> str:
        """The narrowest of KINDS that fits all texts so far."""
        if not self._left:
            return "string"
        numeric = self._left[0] != "bool"
        if self._any_missing:
            return "float32" if numeric else "string"
        return self._left[0]

    def add(self, texts: Any) -> None:
        """Adds a chunk of texts; a null text is a missing value."""
        if not self._left:
            return
        self._any_missing |= texts.null_count > 0
        fits = [kind for kind in self._left if self._fits(texts, kind)]
        if not fits and "float32" in self._left:
            self._find_spoiler(texts)
        elif fits:
            self.numbers += len(texts) - texts.null_count
        self._left = fits

    def _fits(self, texts: Any, kind: str) -> bool:
        if _cast(texts, kind) is not None:
            return True
        for text in texts.to_pylist():
            try:
                self._any_missing |= _parsed(text, kind, self._missing) is None
            except ValueError:
                return False
        return True

    def _find_spoiler(self, texts: Any) -> None:
        for text in texts.to_pylist():
            try:
                self.numbers += _parsed(text, "float32", self._missing) is not None
            except ValueError:
                self.spoiler = text if self.numbers >= _MANY else None
                return


def _cast(texts: Any, kind: str) -> Any | None:
    """Converts texts with pyarrow, which is fast; None if a text is not in its plain form."""
    pa = load("pyarrow", "CsvSource")

    to = {"int64": pa.int64(), "float32": pa.float64(), "bool": pa.bool_()}[kind]
    try:
        return texts.cast(to)
    except pa.ArrowInvalid:
        return None


def _parse_each(texts: Any, kind: str, missing: frozenset[str]) -> tuple[Any, dict[int, str]]:
    pa = load("pyarrow", "CsvSource")

    values: list[Any] = []
    bad: dict[int, str] = {}
    for row, text in enumerate(texts.to_pylist()):
        try:
            values.append(_parsed(text, kind, missing))
        except ValueError:
            values.append(None)
            bad[row] = f"has {shown(text)}, which is not a valid {kind}"
    to = {"int64": pa.int64(), "float32": pa.float64(), "bool": pa.bool_()}[kind]
    return pa.array(values, to), bad


def _parsed(text: str | None, kind: str, missing: frozenset[str]) -> Any:
    """Parses one text, which may have blanks or a plus sign; raises ValueError if it is invalid."""
    if text is None or text.strip() in missing:
        return None
    if "_" in text:  # Python allows it in numbers
        raise ValueError
    if kind == "float32":
        return float(text)
    if kind == "bool":
        if text.strip().lower() not in _BOOLS:
            raise ValueError
        return _BOOLS[text.strip().lower()]
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def as_float32(values: np.ndarray, bad: dict[int, str]) -> tuple[np.ndarray, dict[int, str]]:
    """Converts float64 to float32; values that are too large become NaN and are added to `bad`."""
    too_large = np.isfinite(values) & (np.abs(values) > _FLOAT32_MAX)
    for row in np.flatnonzero(too_large).tolist():
        bad.setdefault(row, f"has {values[row]}, which is too large for float32")
    return np.where(too_large, math.nan, values).astype(np.float32), bad
