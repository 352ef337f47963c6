"""The records of a CSV file as they stand there: texts, record numbers, and what is wrong."""

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

# Bytes parsed at once; no record may be longer. 8 MiB took 370 MB of memory, and no less time.
_BLOCK = 2 << 20
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


class Piece(NamedTuple):
    """Consecutive records of a file, without those that have no proper fields.

    Attributes:
        columns: by name, a pyarrow array of binary, null where a value is missing.
        records: int64 [n]; their numbers in the file.
        bad: records found bad since the piece before.
    """

    columns: dict[str, Any]
    records: np.ndarray
    bad: list[BadRecord]


class CsvFile:
    """Reads one CSV file through pyarrow.

    Args:
        path: of the file; one ending in .gz, .bz2, .zst or .lz4 is decompressed.
        delimiter: one letter.
        missing: the texts that stand for a missing value.
    """

    def __init__(self, path: str, delimiter: str, missing: Sequence[str]):
        self.path, self._delimiter, self._missing = path, delimiter, list(missing)

    def names(self) -> list[str]:
        """The header; raises ValueError or OSError with what is wrong with it."""
        return list(self._raw_names)

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        """All records; a last piece without any where only bad ones are left to tell of.

        Args:
            names: of the columns to read.
        """
        pa = load("pyarrow", "CsvSource")

        invalid: list[Any] = []
        read = told = 0

        def skip(row: Any) -> str:
            invalid.append(row)
            return "skip"

        def bad() -> list[BadRecord]:
            nonlocal told
            new, told = invalid[told:], len(invalid)
            return [BadRecord(self.path, row.number - 2, self._wrong_fields(row)) for row in new]

        lost: list[BadRecord] = []
        try:
            with self._open() as file:
                raw_names = [self._raw_names[name] for name in names]
                for batch in self._reader(file, raw_names, skip):
                    records = _record_numbers(read, batch.num_rows, invalid)
                    read += batch.num_rows
                    columns = [self._as_it_was(column) for column in batch.columns]
                    yield Piece(dict(zip(names, columns, strict=True)), records, bad())
        except (pa.ArrowInvalid, OSError) as error:
            reason = f"neither it nor what follows can be read: {_cause(error)}"
            lost = [BadRecord(self.path, read + len(invalid), reason)]
        nothing = {name: pa.array([], pa.binary()) for name in names}
        yield Piece(nothing, np.zeros([0], np.int64), bad() + lost)

    def first_damaged_quote(self, records: int) -> int | None:
        """The number of the first record whose quotes are not closed as they should be.

        Where a quote is too many, the parser takes the lines up to the next one for one value.
        Only a file with more lines than records can have lost records so, and only that, or one
        that ends within a line, is read again, by a stricter parser.

        Args:
            records: how many records pyarrow found, good and bad.
        """
        if self._lines == records + 1 and self._ends_a_line:
            return None
        after = 0
        try:
            for number, _ in self._strictly():
                after = number + 1
        except csv.Error:
            return after
        except OSError:
            pass  # it is told of where the records are read
        return None

    def with_lines(self, bad: Sequence[BadRecord]) -> list[BadRecord]:
        """The same, with the number of the line (from 1) where each begins."""
        wanted = {record.record for record in bad if record.record is not None}
        lines: dict[int, int] = {}
        try:
            for number, line in self._strictly():
                if number in wanted:
                    lines[number] = line
                    if len(lines) == len(wanted):
                        break
        except (csv.Error, OSError):
            pass  # the lines after this place are not known, and not told
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
            # One thread: only then does the handler learn the number of a record.
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

    def _as_it_was(self, column: Any) -> Any:
        """The bytes of the file, where they had to be taken for Latin-1."""
        pa = load("pyarrow", "CsvSource")

        if self._is_utf8:
            return column
        values = [value and value.decode().encode("latin-1") for value in column.to_pylist()]
        return pa.array(values, pa.binary())

    def _wrong_fields(self, row: Any) -> str:
        lines = row.text.count("\n") + 1
        over = f" over {lines} lines" if lines > 1 else ""
        text = row.text if self._is_utf8 else row.text.encode("latin-1")
        return (
            f"it has {row.actual_columns} fields{over}, not {row.expected_columns}: {shown(text)}"
        )

    @functools.cached_property
    def _raw_names(self) -> dict[str, str]:
        """Each column's name, and as the parser has it."""
        pa = load("pyarrow", "CsvSource")

        if not files.signature(self.path)[0]:
            raise ValueError("the file is empty")
        is_utf8 = self._is_utf8  # found out before, as a file in memory:// is open only once
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
        return self._looked_over[0]

    @property
    def _lines(self) -> int:
        return self._looked_over[1]

    @property
    def _ends_a_line(self) -> bool:
        return self._looked_over[2]

    @functools.cached_property
    def _looked_over(self) -> tuple[bool, int, bool]:
        """Whether the file is UTF-8, its number of lines, and whether the last one is whole.

        pyarrow stops at a bad record that is not UTF-8.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        lines, last, is_utf8 = 0, b"\n", True
        with self._open() as file:
            try:
                while block := file.read(_BLOCK):
                    lines, last = lines + block.count(b"\n"), block[-1:]
                    is_utf8 = is_utf8 and _decodes(decoder, block)
            except OSError:
                pass  # it is told of where the records are read
        is_utf8 = is_utf8 and not decoder.getstate()[0]
        return is_utf8, lines + (last != b"\n"), last == b"\n"

    def _strictly(self) -> Iterator[tuple[int, int]]:
        """Each record's number and first line, by Python's parser, which checks the quotes."""
        limit = csv.field_size_limit(sys.maxsize)
        try:
            with self._open() as file:
                text = io.TextIOWrapper(file, encoding="latin-1", newline="")
                reader = csv.reader(text, delimiter=self._delimiter, strict=True)
                number, line = -2, 1
                for fields in reader:
                    if fields:  # blank lines are no records
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
    """The numbers in the file of the good records first, first + 1, … when bad ones count too."""
    numbers = np.arange(first, first + count)
    bad = np.array([row.number - 2 for row in invalid], np.int64)
    return numbers + np.searchsorted(bad - np.arange(len(bad)), numbers, side="right")


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes) -> bool:
    try:
        decoder.decode(block)
    except UnicodeDecodeError:
        return False
    return True
