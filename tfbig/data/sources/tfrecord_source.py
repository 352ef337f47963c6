"""TFRecord files as a Source."""

import functools
import itertools
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.data import bad_records, files
from tfbig.data.bad_records import BadRecord, BadRecords
from tfbig.data.source import Source
from tfbig.data.sources import tfrecord_index
from tfbig.data.sources.examples import Parse, RecordParser
from tfbig.data.sources.tfrecord_index import FOOTER, HEADER, Index, masked_crc32c
from tfbig.errors import UserError

_OPEN_FILES = 256
_GAP = 64 << 10  # remote records with a smaller gap, in bytes, are read with one request
_PAGE = 4096


class TFRecordSource(Source):
    """TFRecord files, read by record number.

    The first use of a file builds an index of its records and saves it beside the file, as
    `<name>.tfbig-index.npz`, or in the cache folder ($TFBIG_CACHE_DIR or ~/.cache/tfbig) if the
    file's folder is not writable. The index is rebuilt when the file's size or time changes.

    Example:

        source = tfbig.data.TFRecordSource(
            "data/train-*.tfrecord",
            {
                "image": tf.io.FixedLenFeature([8, 8, 1], tf.float32),
                "label": tf.io.FixedLenFeature([], tf.int64),
            },
            labels="label",
        ).batch(64)

    A function can pad lists of variable length:

        def parse(records):
            features = tf.io.parse_example(records, {"ids": tf.io.RaggedFeature(tf.int64)})
            return features["ids"].to_tensor(shape=[None, 128])

        source = tfbig.data.TFRecordSource("data/*.tfrecord", parse)

    Args:
        paths: a path, a pattern, a URL such as gs://bucket/train-*, or a list of them. The files
            must not be compressed.
        parse: a dict of tf.io.FixedLenFeature, for files of tf.train.Example; or a function that
            takes an object array of n bytes and returns a batch of n examples (NumPy arrays or
            tensors), and raises ValueError or InvalidArgumentError for a bad record; or None: an
            example is the bytes of the record.
        labels: with a dict: the name of the feature that becomes the labels.
        on_bad_record: "error", or "skip" to skip records that are damaged or that `parse`
            rejects.
        quarantine: with "skip": the JSON Lines file that lists the skipped records.
        verify: whether to check the checksum of every record that is read.

    Raises:
        UserError: a file does not exist, or an argument is invalid.
        BadRecords: a file is empty or truncated, or the length of a record is damaged.
    """

    def __init__(
        self,
        paths: files.Paths,
        parse: Parse = None,
        *,
        labels: str | None = None,
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
        verify: bool = True,
    ):
        self._parser = RecordParser(parse, labels, "TFRecordSource")
        self._paths = files.expand(paths, "TFRecordSource")
        self._quarantine = bad_records.make_quarantine(on_bad_record, quarantine, self._paths[0])
        self._verify = verify
        self.threads = min(8, os.cpu_count() or 1)
        indexes = self._indexes()
        counts = np.array([len(index.bounds) - 1 for index in indexes])
        self._first_numbers = np.cumsum(counts) - counts  # the number of each file's first record
        self._length = int(counts.sum())
        self._bounds = np.concatenate([index.bounds for index in indexes])
        self._signatures = [index.signature for index in indexes]
        self._mapped = functools.lru_cache(_OPEN_FILES)(_map)

    def __len__(self) -> int:
        return self._length

    @override
    def read(self, indices: np.ndarray) -> Any:
        indices = np.asarray(indices, np.int64)
        records, found = self._records(indices)
        good = np.ones([len(indices)], bool)
        good[[bad.position for bad in found]] = False
        batch, unparsed = self._parser(records[good] if found else records)
        positions = np.flatnonzero(good)
        found += [self._bad(indices, int(positions[i]), reason) for i, reason in unparsed]
        if found:
            raise BadRecords(sorted(found, key=lambda bad: bad.position), self._quarantine)
        return batch

    def _indexes(self) -> list[Index]:
        with ThreadPoolExecutor(min(8, len(self._paths))) as pool:
            indexes = list(pool.map(_index_of, self._paths))
        found = [
            BadRecord(path, len(index.bounds) - 1 if index.signature[0] else None, index.problem)
            for path, index in zip(self._paths, indexes, strict=True)
            if index.problem
        ]
        bad_records.report_bad(found, self._quarantine)
        return indexes

    def _records(self, indices: np.ndarray) -> tuple[np.ndarray, list[BadRecord]]:
        """The bytes of these records, in the order of indices, object [n]; and the bad ones."""
        order = np.argsort(indices, kind="stable")  # by file and offset
        numbers = indices[order]
        file = np.searchsorted(self._first_numbers, numbers, "right") - 1
        starts = self._bounds[numbers + file]  # each file has one bound more than records
        ends = self._bounds[numbers + file + 1]
        records = np.empty([len(order)], object)
        checksums = np.zeros([len(order)], np.uint32)
        check = np.zeros([len(order)], bool)
        found = []
        edges = [0, *np.flatnonzero(np.diff(file)) + 1, len(order)] if len(order) else [0]
        for first, last in itertools.pairwise(edges):
            which, positions = int(file[first]), order[first:last]
            changed = self._changed(which)
            for rows, outcome in self._parts(which, starts[first:last], ends[first:last]):
                if isinstance(outcome, str):
                    found += [self._bad(indices, int(p), outcome) for p in positions[rows]]
                else:
                    records[positions[rows]], checksums[positions[rows]] = outcome
                    check[positions[rows]] = self._verify or changed
        checked = np.flatnonzero(check)
        wrong = checked[masked_crc32c(list(records[checked])) != checksums[checked]]
        return records, found + [
            self._bad(indices, int(position), "its checksum is wrong") for position in wrong
        ]

    def _changed(self, which: int) -> bool:
        """Whether a local file has changed since it was indexed.

        Remote files are not checked, because that would cost a request.
        """
        path = self._paths[which]
        try:
            return not files.is_remote(path) and files.signature(path) != self._signatures[which]
        except FileNotFoundError:
            return True

    def _parts(self, which: int, starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple]:
        """Reads records of one file.

        Yields:
            (rows, outcome): indices of some of the records, and their (data, checksums) or the
            reason why they cannot be read.
        """
        path = self._paths[which]
        try:
            if files.is_remote(path):
                blocks = _remote_blocks(path, starts, ends)
            else:
                size, time = files.signature(path)
                blocks = [(np.arange(len(starts)), 0, self._mapped(path, size, time))]
        except FileNotFoundError:
            yield slice(None), "the file no longer exists"
            return
        for rows, first, block in blocks:
            inside = ends[rows] - first <= len(block)
            if not inside.all():
                size = first + len(block)
                yield rows[~inside], f"the file has shrunk to {size} bytes"
                rows = rows[inside]
            if len(rows):
                yield rows, _cut(block, starts[rows] - first, ends[rows] - first)

    def _bad(self, indices: np.ndarray, position: int, reason: str) -> BadRecord:
        number = int(indices[position])
        which = int(np.searchsorted(self._first_numbers, number, "right") - 1)
        start = int(self._bounds[number + which])
        return BadRecord(
            self._paths[which],
            number - int(self._first_numbers[which]),
            f"{reason} (it begins at byte {start})",
            position,
        )


def _index_of(path: str) -> Index:
    if files.is_folder(path):
        pattern = path.rstrip("/") + "/*.tfrecord"
        raise UserError(f"TFRecordSource: {path!r} is a folder; pass {pattern!r}.")
    try:
        return tfrecord_index.load_or_build(path)
    except FileNotFoundError:
        return Index(np.zeros([1], np.int64), "the file no longer exists", [0, 0])


def _map(path: str, size: int, time: int) -> mmap.mmap | bytes:
    """Memory-maps a file; size and time belong to the cache key, so a new file is mapped again."""
    del size, time
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _cut(
    block: mmap.mmap | bytes, starts: np.ndarray, ends: np.ndarray
) -> tuple[list[bytes], np.ndarray]:
    """The data of the records between these bounds in a block, and their stored checksums."""
    view = np.frombuffer(block, np.uint8)
    if isinstance(block, mmap.mmap):
        _read_pages(view, starts, ends)
    checksums = view[(ends - FOOTER)[:, None] + np.arange(FOOTER)].view("<u4")[:, 0]
    bounds = zip((starts + HEADER).tolist(), (ends - FOOTER).tolist(), strict=True)
    return [block[start:end] for start, end in bounds], checksums


def _read_pages(view: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Reads the pages of a mapped file without the GIL, which a slice would hold meanwhile."""
    pages = (ends - starts) // _PAGE + 2
    ranks = np.arange(pages.sum()) - np.repeat(np.cumsum(pages) - pages, pages)
    view.take(np.minimum(np.repeat(starts, pages) + ranks * _PAGE, np.repeat(ends - 1, pages)))


def _remote_blocks(
    path: str, starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, int, bytes]]:
    """Reads records of a remote file, nearby ones with one request.

    Args:
        path: a URL.
        starts, ends: int64 [n], sorted; a record may occur twice.

    Returns:
        (indices of the records, offset of the block in the file, bytes of the block), per block.
    """
    apart = np.flatnonzero(starts[1:] - ends[:-1] > _GAP) + 1
    groups = np.split(np.arange(len(starts)), apart)
    firsts = [int(starts[rows[0]]) for rows in groups]
    lasts = [int(ends[rows[-1]]) for rows in groups]
    return zip(groups, firsts, files.read_ranges(path, firsts, lasts), strict=True)
