"""ArrayRecord files as a Source."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig._optional import load
from tfbig.data import bad_records, files
from tfbig.data.bad_records import BadRecord, BadRecords
from tfbig.data.source import Source
from tfbig.data.sources.examples import Parse, RecordParser
from tfbig.errors import UserError

_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access
_BUFFER = 32 << 10  # bytes, as in the data source of array_record itself


class ArrayRecordSource(Source):
    """ArrayRecord files, read by record number.

    The format has an index and checksums. Files written with "group_size:1" are the fastest for
    random access.

    Example:

        source = tfbig.data.ArrayRecordSource(
            "data/train-*.array_record",
            {
                "image": tf.io.FixedLenFeature([8, 8, 1], tf.float32),
                "label": tf.io.FixedLenFeature([], tf.int64),
            },
            labels="label",
        ).batch(64)

    Args:
        paths: a local path, a pattern, or a list of them.
        parse, labels: see `TFRecordSource`.
        on_bad_record: "error", or "skip" to skip records that are damaged or that `parse`
            rejects.
        quarantine: with "skip": the JSON Lines file that lists the skipped records.

    Raises:
        UserError: a file does not exist, an argument is invalid, or array_record is not installed.
        BadRecords: a file is empty, truncated or not an ArrayRecord file.
    """

    def __init__(
        self,
        paths: files.Paths,
        parse: Parse = None,
        *,
        labels: str | None = None,
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
    ):
        self._parser = RecordParser(parse, labels, "ArrayRecordSource")
        self._paths = files.expand(paths, "ArrayRecordSource")
        for path in self._paths:
            _check_path(path)
        self._quarantine = bad_records.make_quarantine(on_bad_record, quarantine, self._paths[0])
        self.threads = min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(min(8, len(self._paths))) as pool:
            self._files = list(pool.map(_File, self._paths))
        found = [BadRecord(file.path, None, file.problem) for file in self._files if file.problem]
        bad_records.report_bad(found, self._quarantine)
        counts = np.array([file.count for file in self._files])
        self._first_numbers = np.cumsum(counts) - counts  # the number of each file's first record
        self._length = int(counts.sum())

    def __len__(self) -> int:
        return self._length

    @override
    def read(self, indices: np.ndarray) -> Any:
        indices = np.asarray(indices, np.int64)
        order = np.argsort(indices, kind="stable")
        which = np.searchsorted(self._first_numbers, indices, "right") - 1
        numbers = indices - self._first_numbers[which]
        records = np.empty([len(indices)], object)
        good = np.ones([len(indices)], bool)
        found = []
        edges = [0, *np.flatnonzero(np.diff(which[order])) + 1, len(order)]
        for first, last in itertools.pairwise(edges if len(order) else [0]):
            positions = order[first:last]
            file = self._files[which[positions[0]]]
            records[positions], bad = file.read(numbers[positions].tolist())
            for row, reason in bad:
                position = int(positions[row])
                found.append(BadRecord(file.path, int(numbers[position]), reason, position))
                good[position] = False
        batch, unparsed = self._parser(records[good] if found else records)
        for position, reason in ((int(np.flatnonzero(good)[i]), reason) for i, reason in unparsed):
            path = self._paths[which[position]]
            found.append(BadRecord(path, int(numbers[position]), reason, position))
        if found:
            raise BadRecords(sorted(found, key=lambda bad: bad.position), self._quarantine)
        return batch


class _File:
    """One file, which is reopened when it has changed.

    Attributes:
        path: path of the file.
        count: number of records when it was first opened.
        problem: why it could not be opened then, or "".
    """

    def __init__(self, path: str):
        self.path, self.count, self.problem = path, 0, ""
        self._lock = threading.Lock()
        self._reader: Any = None
        self._signature: Any = None
        try:
            self.count = self._opened()[0].num_records()
        except (FileNotFoundError, RuntimeError) as error:
            self.problem = _reason(error)

    def read(self, numbers: list[int]) -> tuple[list[bytes | None], list[tuple[int, str]]]:
        """Reads records.

        Returns:
            (data, bad): the bytes of each record; and, where they are None, (index in numbers,
            reason).
        """
        try:
            reader, signature = self._opened()
            if reader.num_records() != self.count:
                raise RuntimeError(f"the file now has {reader.num_records()} records")
            data, bad = _read(reader, numbers, 0)
            # If the file was truncated since it was opened, array_record returns empty records.
            if all(data) or files.signature(self.path) == signature:
                return data, bad
            raise RuntimeError("the file was changed while it was read")
        except (FileNotFoundError, RuntimeError) as error:
            reason = _reason(error)
            return [None] * len(numbers), [(row, reason) for row in range(len(numbers))]

    def _opened(self) -> tuple[Any, list]:
        signature = files.signature(self.path)
        with self._lock:
            if self._reader is None or signature != self._signature:
                self._reader, self._signature = _open(self.path, signature[0]), signature
            return self._reader, signature


def _open(path: str, size: int) -> Any:
    array_record_module = load("array_record.python.array_record_module", "ArrayRecordSource")
    if size == 0:
        raise RuntimeError("the file is empty")
    reader = array_record_module.ArrayRecordReader(
        path, options=_OPTIONS, file_reader_buffer_size=_BUFFER
    )
    reader.read([])  # raises an error for a damaged file, which opening it does not
    return reader


def _read(reader: Any, numbers: list[int], first: int) -> tuple[list, list[tuple[int, str]]]:
    """Reads all records at once; on failure, bisects to find the bad ones."""
    try:
        return reader.read(numbers), []
    except RuntimeError as error:
        if len(numbers) == 1:
            return [None], [(first, _reason(error))]
    half = len(numbers) // 2
    data, bad = _read(reader, numbers[:half], first)
    more, worse = _read(reader, numbers[half:], first + half)
    return data + more, bad + worse


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file no longer exists"
    return " ".join(str(error).split()).rstrip(".")


def _check_path(path: str) -> None:
    if files.is_remote(path):
        raise UserError(
            f"ArrayRecordSource: array_record reads local files only, received {path!r}. Copy the "
            "files to this machine, or convert them to TFRecord files, which TFRecordSource reads "
            "from remote storage."
        )
    if files.is_folder(path):
        pattern = path.rstrip("/") + "/*.array_record"
        raise UserError(f"ArrayRecordSource: {path!r} is a folder; pass {pattern!r}.")
