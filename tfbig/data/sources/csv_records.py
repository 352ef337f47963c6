"""Reads the records of a CSV file: texts, record numbers, and bad records with reasons."""

import codecs
import csv
import functools
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfbig._optional import load
from tfbig.data import files
from tfbig.data.bad_records import BadRecord
from tfbig.data.sources.column_source import check_unique, shown

# Bytes per block, and the maximum size of a record. 8 MiB used 370 MB of memory and was no faster.
_BLOCK = 2 << 20
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


class CsvChunk(NamedTuple):
    """Consecutive records of a file, without those that have a wrong number of fields.

    Attributes:
        columns: by name, a pyarrow array of binary; a missing value is null.
        records: int64 [n], record numbers in the file.
        bad: bad records found since the previous chunk.
    """

    columns: dict[str, Any]
    records: np.ndarray
    bad: list[BadRecord]


class CsvFile:
    """Reads one CSV file through pyarrow.

    Args:
        path: path of the file; .gz, .bz2, .zst and .lz4 files are decompressed.
        delimiter: one character.
        missing: the texts that mean a missing value.
    """

    def __init__(self, path: str, delimiter: str, missing: Sequence[str]):
        self.path, self._delimiter, self._missing = path, delimiter, list(missing)

    def names(self) -> list[str]:
        """The column names in the header; raises ValueError or OSError if it cannot be read."""
        return list(self._raw_names)

    def chunks(self, names: Sequence[str]) -> Iterator[CsvChunk]:
        """Reads all records; the last chunk is empty and holds the remaining bad records.

        Args:
            names: names of the columns to read.
        """
        pa = load("pyarrow", "CsvSource")

        invalid: list[Any] = []
        read = reported = 0

        def skip(row: Any) -> str:
            invalid.append(row)
            return "skip"

        def bad() -> list[BadRecord]:
            nonlocal reported
            new, reported = invalid[reported:], len(invalid)
            return [BadRecord(self.path, row.number - 2, self._wrong_fields(row)) for row in new]

        lost: list[BadRecord] = []
        try:
            with self._open() as file:
                raw_names = [self._raw_names[name] for name in names]
                for batch in self._reader(file, raw_names, skip):
                    records = _record_numbers(read, batch.num_rows, invalid)
                    read += batch.num_rows
                    columns = [self._original_bytes(column) for column in batch.columns]
                    yield CsvChunk(dict(zip(names, columns, strict=True)), records, bad())
        except (pa.ArrowInvalid, OSError) as error:
            reason = f"this record and all that follow cannot be read: {_cause(error)}"
            lost = [BadRecord(self.path, read + len(invalid), reason)]
        nothing = {name: pa.array([], pa.binary()) for name in names}
        yield CsvChunk(nothing, np.zeros([0], np.int64), bad() + lost)

    def first_damaged_quote(self, records: int) -> int | None:
        """The number of the first record with an unbalanced quote, or None.

        After an extra quote, the parser reads all lines up to the next quote as one value. Only a
        file with more lines than records can lose records like this. So only such a file, or one
        whose last line is incomplete, is read again with a stricter parser.

        Args:
            records: number of records that pyarrow found, good and bad.
        """
        if self._lines == records + 1 and self._ends_a_line:
            return None
        after = 0
        try:
            for number, _ in self._strict_records():
                after = number + 1
        except csv.Error:
            return after
        except OSError:
            pass  # reported when the records are read
        return None

    def with_lines(self, bad: Sequence[BadRecord]) -> list[BadRecord]:
        """Adds to each record's reason the number of its first line, from 1."""
        wanted = {record.record for record in bad if record.record is not None}
        lines: dict[int, int] = {}
        try:
            for number, line in self._strict_records():
                if number in wanted:
                    lines[number] = line
                    if len(lines) == len(wanted):
                        break
        except (csv.Error, OSError):
            pass  # the line numbers after this point are unknown
        return [
            record._replace(reason=f"{record.reason} (line {lines[record.record]})")
            if record.record in lines
            else record
            for record in bad
        ]

    def _open(self) -> Any:
        pa = load("pyarrow", "CsvSource")

        file = files.open_binary(self.path)
        compression = _COMPRESSIONS.get(os.path.splitext(self.path)[1])
        if compression is None:
            return pa.PythonFile(file, mode="r")
        return pa.input_stream(file, compression=compression)

    def _reader(self, file: Any, names: Sequence[str], skip: Any) -> Any:
        pa = load("pyarrow", "CsvSource")
        pyarrow_csv = load("pyarrow.csv", "CsvSource")

        return pyarrow_csv.open_csv(
            file,
            # One thread, because only then does the handler get the number of a record.
            read_options=pyarrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK,
                encoding="utf8" if self._is_utf8 else "latin1",
            ),
            parse_options=pyarrow_csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow_csv.ConvertOptions(
                include_columns=list(names),
                default_column_type=pa.binary(),
                null_values=[self._as_parsed(text) for text in self._missing],
                strings_can_be_null=True,
            ),
        )

    def _as_parsed(self, text: str) -> str:
        return text if self._is_utf8 else text.encode().decode("latin-1")

    def _original_bytes(self, column: Any) -> Any:
        """Restores the bytes of the file if it was decoded as Latin-1."""
        pa = load("pyarrow", "CsvSource")

        if self._is_utf8:
            return column
        values = [value and value.decode().encode("latin-1") for value in column.to_pylist()]
        return pa.array(values, pa.binary())

    def _wrong_fields(self, row: Any) -> str:
        lines = row.text.count("\n") + 1
        over = f" on {lines} lines" if lines > 1 else ""
        text = row.text if self._is_utf8 else row.text.encode("latin-1")
        return (
            f"it has {row.actual_columns} fields{over}, not {row.expected_columns}: {shown(text)}"
        )

    @functools.cached_property
    def _raw_names(self) -> dict[str, str]:
        """Each column's name, mapped to the name that pyarrow uses."""
        pa = load("pyarrow", "CsvSource")

        if not files.signature(self.path)[0]:
            raise ValueError("the file is empty")
        is_utf8 = self._is_utf8  # computed first, because a memory:// file is opened only once
        with self._open() as file:
            try:
                raw = self._reader(file, [], lambda row: "skip").schema.names
            except pa.ArrowInvalid as error:
                if "Empty CSV" in str(error):
                    raise ValueError("the file has no records") from error
                raise ValueError(f"it cannot be read as CSV: {_cause(error)}") from error
        if is_utf8:
            names = raw
        else:
            try:
                names = [name.encode("latin-1").decode("utf-8-sig") for name in raw]
            except UnicodeDecodeError as error:
                raise ValueError("its header is not UTF-8 text") from error
        check_unique(names)
        return dict(zip(names, raw, strict=True))

    @property
    def _is_utf8(self) -> bool:
        return self._scan[0]

    @property
    def _lines(self) -> int:
        return self._scan[1]

    @property
    def _ends_a_line(self) -> bool:
        return self._scan[2]

    @functools.cached_property
    def _scan(self) -> tuple[bool, int, bool]:
        """Whether the file is UTF-8, its number of lines, and whether the last line is complete.

        A file that is not UTF-8 is read as Latin-1, because pyarrow would stop at the first bad
        record that is not UTF-8.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        lines, last, is_utf8 = 0, b"\n", True
        with self._open() as file:
            try:
                while block := file.read(_BLOCK):
                    lines, last = lines + block.count(b"\n"), block[-1:]
                    is_utf8 = is_utf8 and _decodes(decoder, block)
            except OSError:
                pass  # reported when the records are read
        is_utf8 = is_utf8 and not decoder.getstate()[0]
        return is_utf8, lines + (last != b"\n"), last == b"\n"

    def _strict_records(self) -> Iterator[tuple[int, int]]:
        """Each record's number and first line, from Python's csv parser, which checks quotes."""
        limit = csv.field_size_limit(sys.maxsize)
        try:
            with self._open() as file:
                text = io.TextIOWrapper(file, encoding="latin-1", newline="")
                reader = csv.reader(text, delimiter=self._delimiter, strict=True)
                number, line = -2, 1
                for fields in reader:
                    if fields:  # not a blank line
                        number += 1
                        if number >= 0:
                            yield number, line
                    line = reader.line_num + 1
        finally:
            csv.field_size_limit(limit)


def _cause(error: Exception) -> str:
    if "straddl" in str(error):
        return f"a quote is never closed, or a record is longer than {_BLOCK} bytes"
    return str(error)


def _record_numbers(first: int, count: int, invalid: Sequence[Any]) -> np.ndarray:
    """Converts the indices first, first + 1, … of good records to numbers that count bad ones."""
    numbers = np.arange(first, first + count)
    bad = np.array([row.number - 2 for row in invalid], np.int64)
    return numbers + np.searchsorted(bad - np.arange(len(bad)), numbers, side="right")


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes) -> bool:
    try:
        decoder.decode(block)
    except UnicodeDecodeError:
        return False
    return True
