"""CSV files as a Source."""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfbig._optional import load
from tfbig.data.bad_records import BadRecord
from tfbig.data.files import Paths
from tfbig.data.sources.column_source import ColumnSource, Note, shown, without_rows
from tfbig.data.sources.csv_records import CsvChunk, CsvFile
from tfbig.data.sources.csv_values import KINDS, Inference, as_texts, as_values
from tfbig.data.sources.row_cache import Column
from tfbig.errors import UserError

log = logging.getLogger("tfbig")


class CsvSource(ColumnSource):
    """CSV files with a header; an example is one row.

    The files are converted once, as a stream, to a memory-mapped file beside the first of them
    (or in the cache folder), and again when they have changed. Then any row is read with one
    access, and the data are not held in memory.

    Example:

        source = tfbig.data.CsvSource("houses-*.csv", label="price", types={"zip": "string"})
        features, price = source.read(np.array([7, 2]))  # features["rooms"]: [2]

    Args:
        paths: a path, a pattern, a URL or a list of these; with the same columns. Files whose
            names end in .gz, .bz2, .zst or .lz4 are decompressed.
        features: names of columns; None: all except label and weight.
        label: name of the column of labels; None: examples have features only.
        weight: name of the column of weights; needs a label.
        types: kinds of columns by name: "int64", "float32", "bool" or "string". Other columns get
            the narrowest kind that fits all their rows in all files. With missing values,
            integers become float32, and truth values become strings. float32 represents integers
            up to 2^24 exactly, so use "string" for long numbers.
        delimiter: one ASCII character.
        missing: texts that mean a missing value: NaN in float32, "" in strings. A missing value
            in a column with the given type "int64" or "bool" is a bad record.
        on_bad_record: "error", or "skip": rows with too few or too many fields, with a value that
            does not match the column's type or with bytes that are not UTF-8, and whole files
            that are empty or have other columns are skipped and listed in the quarantine.
        quarantine: the file that lists skipped records; None: beside the first file.

    Blank lines are ignored.

    Raises:
        BadRecords: there are bad records, and on_bad_record is "error".
        UserError: an argument is invalid, or there is no file or no record.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        features: Sequence[str] | None = None,
        label: str | None = None,
        weight: str | None = None,
        types: Mapping[str, str] | None = None,
        delimiter: str = ",",
        missing: Sequence[str] = ("", "NA", "NaN", "null"),
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
    ):
        self._types = dict(types or {})
        self._delimiter, self._missing = delimiter, list(missing)
        _check(self._types, delimiter, missing)
        self._open_files: dict[str, CsvFile] = {}
        self._damaged: dict[str, int | None] = {}
        options = {"types": self._types, "delimiter": delimiter, "missing": self._missing}
        super().__init__(paths, features, label, weight, on_bad_record, quarantine, options)

    def _file(self, path: str) -> CsvFile:
        if path not in self._open_files:
            self._open_files[path] = CsvFile(path, self._delimiter, self._missing)
        return self._open_files[path]

    def _names(self, path: str) -> list[str]:
        return self._file(path).names()

    def _columns(self, paths: Sequence[str], names: Sequence[str]) -> list[Column]:
        unknown = [name for name in self._types if name not in names]
        if unknown:
            raise UserError(
                f"CsvSource(types=…): {unknown[0]!r} is not a column that is read; the columns "
                f"are {', '.join(map(repr, names))}."
            )
        missing = frozenset(self._missing)
        kinds = {name: Inference(missing) for name in names if name not in self._types}
        for path in paths:
            after, records = self._inferred(path, kinds, names, None)
            damaged = self._file(path).first_damaged_quote(records)
            if damaged is not None:
                after, _ = self._inferred(path, kinds, self._file(path).names(), damaged)
            for name, inference in after.items():
                if inference.spoiler and kinds[name].kind != "string":
                    _warn_of_text(path, name, inference)
            kinds, self._damaged[path] = after, damaged
        return [Column(name, self._types.get(name) or kinds[name].kind) for name in names]

    def _inferred(
        self, path: str, kinds: dict[str, Inference], names: Sequence[str], damaged: int | None
    ) -> tuple[dict[str, Inference], int]:
        """The kinds of columns after one more file, and its number of records."""
        kinds, records = copy.deepcopy(kinds), 0
        for chunk in self._file(path).chunks(names):
            records += len(chunk.records) + len(chunk.bad)
            left_out = _badly_quoted(chunk, damaged)
            for name, inference in kinds.items():
                [column] = without_rows([chunk.columns[name]], left_out)
                texts, undecoded = as_texts(column)
                inference.add(*without_rows([texts], undecoded))
        return kinds, records

    def _convert(
        self, path: str, columns: Sequence[Column], add: Callable[[list], None], note: Note
    ) -> None:
        file, damaged = self._file(path), self._damaged[path]
        bad: list[BadRecord] = []
        names = [column.name for column in columns] if damaged is None else file.names()
        for chunk in file.chunks(names):
            values, wrong = self._values(chunk, columns)
            wrong |= _badly_quoted(chunk, damaged)
            bad += chunk.bad
            bad += [
                BadRecord(path, int(chunk.records[row]), reason) for row, reason in wrong.items()
            ]
            if bad and self.quarantine is None:
                break
            add(without_rows(values, wrong))
        if bad:
            note(file.with_lines(sorted(bad, key=lambda one: one.record)))

    def _values(
        self, chunk: CsvChunk, columns: Sequence[Column]
    ) -> tuple[list[Any], dict[int, str]]:
        wrong: dict[int, str] = {}
        values = []
        for column in columns:
            texts, undecoded = as_texts(chunk.columns[column.name])
            array, unparsed = as_values(texts, column.kind, frozenset(self._missing))
            values.append(array)
            for row, reason in (unparsed | undecoded).items():
                wrong.setdefault(row, f"column {column.name!r} {reason}")
        return values, wrong


def _warn_of_text(path: str, name: str, inference: Inference) -> None:
    log.warning(
        "%s: column %r is read as text: its first %d values are numbers, but the next is %s. If "
        'it should be numeric, pass types={%r: "float32"}; other values are then bad records.',
        path,
        name,
        inference.numbers,
        shown(inference.spoiler),
        name,
    )


def _badly_quoted(chunk: CsvChunk, damaged: int | None) -> dict[int, str]:
    """The record with an unbalanced quote, and later ones that may be several records merged."""
    pc = load("pyarrow.compute", "CsvSource")

    wrong: dict[int, str] = {}
    if damaged is None:
        return wrong
    for row in np.flatnonzero(chunk.records == damaged).tolist():
        wrong[row] = "it has an unbalanced quote"
    for name, column in chunk.columns.items():
        rows = np.flatnonzero(
            pc.fill_null(pc.match_substring(column, b"\n"), False).to_numpy(zero_copy_only=False)
        )
        for row in rows[chunk.records[rows] >= damaged].tolist():
            lines = column[row].as_py().count(b"\n") + 1
            wrong[row] = (
                f"column {name!r} spans {lines} lines, and the quotes of the file are unbalanced "
                f"from record {damaged} on"
            )
    return wrong


def _check(types: Mapping[str, str], delimiter: str, missing: Sequence[str]) -> None:
    for name, kind in types.items():
        if kind not in KINDS:
            raise UserError(
                f"CsvSource(types={{{name!r}: {kind!r}}}): expected one of {', '.join(KINDS)}."
            )
    if not isinstance(delimiter, str) or len(delimiter) != 1 or not delimiter.isascii():
        raise UserError(f"CsvSource(delimiter={delimiter!r}): expected one ASCII character.")
    if delimiter in '"\r\n':
        raise UserError(
            f"CsvSource(delimiter={delimiter!r}): quotes and line breaks cannot be delimiters."
        )
    if isinstance(missing, str) or not all(isinstance(text, str) for text in missing):
        raise UserError(f"CsvSource(missing={missing!r}): expected a list of texts.")
