"""The base class of tables in files: selects columns, converts them once, reads them by row."""

import collections
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.data import bad_records, files
from tfbig.data.bad_records import BadRecord
from tfbig.data.source import Source
from tfbig.data.sources.row_cache import Column, RowCache, RowCacheWriter
from tfbig.errors import UserError

log = logging.getLogger("tfbig")

Note = Callable[[Sequence[BadRecord]], None]


class ColumnSource(Source):
    """Columns of a table, converted once to a memory-mapped file; see CsvSource, ParquetSource.

    A subclass implements `_names`, `_columns` and `_convert`.

    Args:
        paths, features, label, weight, on_bad_record, quarantine: as in CsvSource.
        options: JSON value with the options of the subclass; the files are converted again when
            it changes.
    """

    def __init__(
        self,
        paths: files.Paths,
        features: Sequence[str] | None,
        label: str | None,
        weight: str | None,
        on_bad_record: str,
        quarantine: str | os.PathLike | None,
        options: dict,
    ):
        self._owner = type(self).__name__
        self._check_roles(features, label, weight)
        self._label, self._weight = label, weight
        found = files.expand(paths, self._owner)
        folders = [path for path in found if files.is_folder(path)]
        if folders:
            raise UserError(
                f"{self._owner}: {folders[0]!r} is a folder; pass its files, such as "
                f"{os.path.join(folders[0], '*')!r}."
            )
        self.quarantine = bad_records.make_quarantine(on_bad_record, quarantine, found[0])
        self.threads = min(8, os.cpu_count() or 1)
        roles = {"features": features and list(features), "label": label, "weight": weight}
        self._rows = self._cached(found, {"type": self._owner, **roles, **options})
        bad = [BadRecord(*record) for record in self._rows.footer["bad"]]
        bad_records.report_bad(bad, self.quarantine)
        self._features = self._rows.footer["features"]
        if not len(self):
            raise UserError(
                f"{self._owner}: there are no records to read in {_listed(found)}"
                + (f"; all records are bad: see {self.quarantine.path}." if bad else ".")
            )

    def __len__(self) -> int:
        return len(self._rows)

    @override
    def read(self, indices: np.ndarray) -> Any:
        values = self._rows.read(indices)
        features = {name: values[name] for name in self._features}
        if self._label is None:
            return features
        rest = (self._label,) if self._weight is None else (self._label, self._weight)
        return features, *(values[name] for name in rest)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Name, kind ("bool", "int64", "float32", "string", "bytes") and shape of each column."""
        return self._rows.columns

    def column(self, name: str) -> np.ndarray:
        """Reads one column of all examples into memory, for example to split by it.

        Example: `split = splitting.stratified(source.column("label"))`.

        Args:
            name: name of a feature, the label or the weight.

        Returns:
            Array of shape [len(source), …].

        Raises:
            UserError: there is no such column.
        """
        names = [column.name for column in self.columns]
        if name not in names:
            raise UserError(
                f"{self._owner}.column({name!r}): the columns are {_listed(names, 20)}."
            )
        return self._rows.column(name)

    def _names(self, path: str) -> list[str]:
        """The names of the columns of a file; raises ValueError if it cannot be read."""
        raise NotImplementedError

    def _columns(self, paths: Sequence[str], names: Sequence[str]) -> list[Column]:
        """The columns with these names, each with a kind that fits its values in all files."""
        raise NotImplementedError

    def _convert(
        self, path: str, columns: Sequence[Column], add: Callable[[list], None], note: Note
    ) -> None:
        """Reads a file; calls `add` with the values of each column and `note` with bad records."""
        raise NotImplementedError

    def _cached(self, paths: Sequence[str], options: dict) -> RowCache:
        """The converted table; converts the files if it is missing or outdated."""
        found: list[BadRecord] = []
        signatures = {}
        for path in paths:
            try:
                signatures[path] = files.signature(path)
            except OSError as error:
                found.append(BadRecord(path, None, f"the file no longer exists ({error})"))
        bad_records.report_bad(found, self.quarantine)
        named = [_absolute(path) for path in paths]
        digest = hashlib.sha256(json.dumps([named, options]).encode()).hexdigest()[:12]
        cache_path = files.sidecar_path(paths[0], f".tfbig-{digest}.rows")
        key = {"version": 1, "options": options, "files": [named, list(signatures.values())]}
        if os.path.exists(cache_path):
            try:
                rows = RowCache(cache_path)
                if rows.footer["key"] == key:
                    return rows
                log.info("%s: the files have changed since %s was made", self._owner, cache_path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged (%s) and is written again", cache_path, error)
        self._build(cache_path, key, list(signatures), options["features"])
        return RowCache(cache_path)

    def _build(
        self, cache_path: str, key: dict, paths: Sequence[str], features: Sequence[str] | None
    ) -> None:
        log.info("%s: converting %s to %s, once", self._owner, _listed(paths), cache_path)
        found: list[BadRecord] = []

        def note(bad: Sequence[BadRecord]) -> None:
            found.extend(bad)
            bad_records.report_bad(bad, self.quarantine)  # without a quarantine, raises at once

        good, all_names = self._same_columns(paths, features, note)
        rest = [name for name in (self._label, self._weight) if name is not None]
        features = features or [name for name in all_names if name not in rest]
        columns = self._columns(good, [*features, *rest]) if good else []
        with RowCacheWriter(cache_path, columns) as writer:
            for path in good:
                self._convert(path, columns, writer.append, note)
            writer.finish({"key": key, "features": list(features), "bad": [list(b) for b in found]})

    def _same_columns(
        self,
        paths: Sequence[str],
        features: Sequence[str] | None,
        note: Note,
    ) -> tuple[list[str], list[str]]:
        """The files with the requested columns and those of the first such file; the columns."""
        asked = [*(features or ()), *filter(None, (self._label, self._weight))]
        good: list[str] = []
        expected: list[str] = []
        for path in paths:
            try:
                names = self._names(path)
                _check_names(names, asked)
                if good:
                    _check_same(names, expected, good[0])
            except (ValueError, OSError) as error:
                note([BadRecord(path, None, str(error))])
                continue
            good.append(path)
            expected = expected or names
        return good, expected

    def _check_roles(
        self, features: Sequence[str] | None, label: str | None, weight: str | None
    ) -> None:
        if isinstance(features, str) or (features is not None and not features):
            raise UserError(
                f"{self._owner}(features={features!r}): pass a list of column names, or None for "
                "all columns except label and weight."
            )
        chosen = [*(features or ()), *filter(None, (label, weight))]
        twice = [name for name in chosen if chosen.count(name) > 1]
        if twice:
            raise UserError(
                f"{self._owner}: the column {twice[0]!r} is named twice; a column is a feature, "
                "the label or the weight."
            )
        if weight is not None and label is None:
            raise UserError(
                f"{self._owner}(weight={weight!r}): a weight needs a label; pass label= too."
            )


def shown(value: Any) -> str:
    """The repr of a value for a message, shortened to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_unique(names: Sequence[str]) -> None:
    """Raises ValueError if a column name occurs twice."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"the column {twice[0]!r} occurs twice")


def without_rows(values: list[Any], rows: Collection[int]) -> list[Any]:
    """Removes these rows from arrays of NumPy or pyarrow."""
    if not rows:
        return values
    kept = np.ones([len(values[0])], bool)
    kept[list(rows)] = False
    return [
        array[kept] if isinstance(array, np.ndarray) else array.filter(kept) for array in values
    ]


def _check_names(names: Sequence[str], asked: Sequence[str]) -> None:
    missing = [name for name in asked if name not in names]
    if missing:
        raise ValueError(
            f"there is no column {_listed(missing)}; the columns are {_listed(names, 20)} (are "
            "features=, label= and weight= right, and the delimiter of a CSV?)"
        )


def _check_same(names: Sequence[str], expected: Sequence[str], first: str) -> None:
    without = [name for name in expected if name not in names]
    besides = [name for name in names if name not in expected]
    if without or besides:
        parts = [f"missing {_listed(without)}"] if without else []
        parts += [f"additional {_listed(besides)}"] if besides else []
        raise ValueError(f"its columns differ from those of {first}: {', '.join(parts)}")


def _listed(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def _absolute(path: str) -> str:
    return path if files.is_remote(path) else os.path.abspath(path)
