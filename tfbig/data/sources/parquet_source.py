"""Parquet files as a Source."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tfbig._optional import load
from tfbig.data import files
from tfbig.data.bad_records import BadRecord
from tfbig.data.sources.column_source import ColumnSource, Note, check_unique, without_rows
from tfbig.data.sources.parquet_values import Kind, as_values, kind_of, list_length, unit_of, widest
from tfbig.data.sources.row_cache import Column
from tfbig.errors import UserError

_BATCH = 1 << 14  # records per conversion


class ParquetSource(ColumnSource):
    """Parquet files; an example is one row.

    The selected columns are converted once, in batches, to a memory-mapped file beside the first
    file (or in the cache folder), and again when the files have changed. That file is not
    compressed and stores each row contiguously: any row is read with one access, while Parquet
    would decompress a page of every column.

    Example:

        source = tfbig.data.ParquetSource(
            "gs://bucket/clicks-*.parquet", features=["age", "city"], label="clicked"
        )
        features, clicked = source.read(np.array([7, 2]))  # features["age"]: [2]

    Args:
        paths: a path, a pattern, a URL or a list of these; with the same columns.
        features: names of columns; None: all except label and weight.
        label: name of the column of labels; None: examples have features only.
        weight: name of the column of weights; needs a label.
        on_bad_record: "error", or "skip": whole files that cannot be read or have other columns,
            the rows of a damaged row group, texts that are not UTF-8, and lists with another
            length than the first row's are skipped and listed in the quarantine.
        quarantine: the file that lists skipped records; None: beside the first file.

    Integers become int64, floating-point numbers and decimals float32, strings (also
    dictionary-encoded ones) object arrays of str, binary values object arrays of bytes, and lists
    of k numbers arrays of shape [n, k]. Dates, times and durations become int64 in the unit of
    their type (days, ms, us, ns; since 1970 UTC). Missing numbers are NaN; so integers and truth
    values with missing ones become float32, which represents integers up to 2^24 exactly. Missing
    strings are "", missing times -2^63, which is NumPy's "NaT".

    Raises:
        BadRecords: there are bad records, and on_bad_record is "error".
        UserError: an argument is invalid, a column cannot be an array, or there is no file or
            no record.
    """

    def __init__(
        self,
        paths: files.Paths,
        *,
        features: Sequence[str] | None = None,
        label: str | None = None,
        weight: str | None = None,
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
    ):
        self._units: dict[str, str | None] = {}  # units of times in the first file, by column
        super().__init__(paths, features, label, weight, on_bad_record, quarantine, {})

    def _names(self, path: str) -> list[str]:
        if not files.signature(path)[0]:
            raise ValueError("the file is empty")
        with _opened(path) as file:
            names = file.schema_arrow.names
        check_unique(names)
        return names

    def _columns(self, paths: Sequence[str], names: Sequence[str]) -> list[Column]:
        kinds: dict[str, Kind] = {}
        missing: set[str] = set()
        for path in paths:
            with _opened(path) as file:
                for name in names:
                    kind = _kind_in(file, name, path, kinds.get(name))
                    self._units.setdefault(name, unit_of(file.schema_arrow.field(name).type))
                    kinds[name] = widest(kinds[name], kind) if name in kinds else kind
                numbers = [n for n in names if kinds[n].may_not_miss and n not in missing]
                missing.update(_with_missing(file, numbers))
        endless = [name for name, kind in kinds.items() if None in kind.shape]
        if endless:
            raise UserError(
                f"ParquetSource: all lists of the column {endless[0]!r} are missing, so their "
                "length is unknown; select other columns with features=[…]."
            )
        return [
            Column(name, "float32" if name in missing else kind.name, kind.shape)
            for name, kind in kinds.items()
        ]

    def _convert(self, path: str, columns: Sequence[Column], add: Any, note: Note) -> None:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(_opened(path))
                _check_types(file.schema_arrow, columns, self._units)
            except (OSError, ValueError) as error:
                note([BadRecord(path, None, str(error))])
                return
            names = [column.name for column in columns]
            for first, batch in _batches(file, path, names, note):
                wrong: dict[int, str] = {}
                values = []
                for column in columns:
                    array = batch.column(batch.schema.get_field_index(column.name))
                    value, bad = as_values(array, column)
                    values.append(value)
                    for row, reason in bad.items():
                        wrong.setdefault(row, f"column {column.name!r} {reason}")
                note([BadRecord(path, first + row, wrong[row]) for row in sorted(wrong)])
                add(without_rows(values, wrong))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Opens a file as a pyarrow ParquetFile; raises ValueError if it is not a Parquet file."""
    pa = load("pyarrow", "ParquetSource")
    parquet = load("pyarrow.parquet", "ParquetSource")

    with files.open_binary(path) as source:
        try:
            file = parquet.ParquetFile(source, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"it cannot be read as Parquet: {_cause(error)}") from error
        groups = range(file.metadata.num_row_groups)
        held = sum(file.metadata.row_group(i).num_rows for i in groups)
        if held != file.metadata.num_rows:
            raise ValueError(
                f"its metadata say {file.metadata.num_rows} records, but it has {held}"
            )
        yield file


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())  # Thrift's messages have several lines


def _kind_in(file: Any, name: str, path: str, before: Kind | None) -> Kind:
    type_ = file.schema_arrow.field(name).type
    kind = kind_of(type_)
    if kind is None:
        raise UserError(
            f"ParquetSource: the column {name!r} of {path} has the type {type_}, which cannot be "
            "an array; select other columns with features=[…]."
        )
    if kind.shape == (None,):
        known = before is not None and before.shape != (None,)
        length = before.shape[0] if known else _first_length(file, name)
        kind = kind._replace(shape=(length,))
    return kind


def _check_types(schema: Any, columns: Sequence[Column], units: dict[str, str | None]) -> None:
    for column in columns:
        type_ = schema.field(column.name).type
        kind = kind_of(type_)
        if kind is None or not kind.fits(column) or unit_of(type_) != units[column.name]:
            expected = f"{column.kind}{list(column.shape) if column.shape else ''}"
            expected = units[column.name] or expected
            raise ValueError(
                f"its column {column.name!r} is {type_}, but in the previous files it is {expected}"
            )


def _first_length(file: Any, name: str) -> int | None:
    for _, batch in _batches(file, "", [name], lambda bad: None):
        length = list_length(batch.column(batch.schema.get_field_index(name)))
        if length is not None:
            return length
    return None


def _with_missing(file: Any, names: Sequence[str]) -> set[str]:
    """The columns with missing values.

    The file's statistics have this information too. But if they are damaged, pyarrow aborts the
    process ("Unencoded byte array data bytes does not support INT64"), while reading the data
    does not use them.
    """
    may = [name for name in names if file.schema_arrow.field(name).nullable]
    missing: set[str] = set()
    if may:
        for _, batch in _batches(file, "", may, lambda bad: None):
            missing.update(
                name for name in may if batch.column(batch.schema.get_field_index(name)).null_count
            )
    return missing


def _batches(file: Any, path: str, names: Sequence[str], note: Note) -> Iterator[tuple[int, Any]]:
    """Reads record batches, each with its first record number; reports unreadable ones to note."""
    pa = load("pyarrow", "ParquetSource")

    start = 0
    for i in range(file.metadata.num_row_groups):
        count, read, why = file.metadata.row_group(i).num_rows, 0, "the row group ends there"
        batches = iter(file.iter_batches(_BATCH, row_groups=[i], columns=list(names)))
        while read < count:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                batch, why = None, _cause(error)
            if batch is None:
                rest = f"this record and the {count - read - 1} after it cannot be read"
                note([BadRecord(path, start + read, f"{rest} (row group {i}): {why}")])
                break
            yield start + read, batch
            read += batch.num_rows
        start += count
