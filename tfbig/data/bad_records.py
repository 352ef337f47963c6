"""Records that cannot be read: an error that names them, or a quarantine file and a count."""

import json
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data import files
from tfbig.errors import UserError

log = logging.getLogger("tfbig")


class BadRecord(NamedTuple):
    """One record that cannot be used.

    Attributes:
        file: path of its file.
        record: its number in that file, from 0; None: the whole file.
        reason: what is wrong, without a full stop: "its checksum is wrong".
        position: its index in the `indices` argument of `read`; None: not found by `read`.
    """

    file: str
    record: int | None
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        # A file name that is not valid UTF-8 cannot be printed.
        file = self.file.encode("utf-8", "backslashreplace").decode()
        where = file if self.record is None else f"{file}, record {self.record}"
        return f"{where}: {self.reason}"


class Quarantine:
    """Lists the records that were skipped, each once, in a JSON Lines file.

    Args:
        path: the file, which is created for the first record. A line has file, record and
            reason. Records that an earlier run has listed are not listed again.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self._seen: set[tuple[str, int | None]] = set()
        self._lines: set[str] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of records that this process has skipped."""
        return len(self._seen)

    def add(self, found: Sequence[BadRecord]) -> None:
        """Lists records that are not listed yet; logs the first one of this process."""
        with self._lock:
            new = {(bad.file, bad.record): bad for bad in found}
            new = [bad for key, bad in new.items() if key not in self._seen]
            if not new:
                return
            if not self._seen:
                log.warning("skipped a bad record: %s (all are listed in %s)", new[0], self.path)
                self._lines = _lines_of(self.path)
            lines = [line for line in map(_line, new) if line not in self._lines]
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(lines)
            self._lines.update(lines)
            self._seen.update((bad.file, bad.record) for bad in new)


def _lines_of(path: str) -> set[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return set(file)
    except FileNotFoundError:
        return set()


def _line(bad: BadRecord) -> str:
    record = None if bad.record is None else int(bad.record)
    return json.dumps({"file": bad.file, "record": record, "reason": bad.reason}) + "\n"


def make_quarantine(
    on_bad_record: str, quarantine: str | os.PathLike | None, beside: str
) -> Quarantine | None:
    """Checks the arguments on_bad_record and quarantine of a source.

    Args:
        on_bad_record: "error" or "skip".
        quarantine: path of the quarantine file; None: `beside` with ".quarantine.jsonl" added, or
            a file in the cache folder if the folder of the data is not writable.
        beside: the path of the data.

    Returns:
        The Quarantine, or None for "error".

    Raises:
        UserError: on_bad_record has another value, or the quarantine is not used or not local.
    """
    if on_bad_record not in ("error", "skip"):
        raise UserError(f'on_bad_record={on_bad_record!r}: expected "error" or "skip".')
    if on_bad_record == "error":
        if quarantine is not None:
            raise UserError(
                f"quarantine={os.fspath(quarantine)!r} is only used with "
                'on_bad_record="skip"; add that, or omit quarantine.'
            )
        return None
    if quarantine is not None and files.is_remote(os.fspath(quarantine)):
        raise UserError(
            f"quarantine={os.fspath(quarantine)!r}: lines can be appended to a local file only; "
            "pass a local path."
        )
    return Quarantine(quarantine or files.sidecar_path(beside, ".quarantine.jsonl"))


class BadRecords(UserError):
    """Raised by `Source.read` when records cannot be read.

    Args:
        found: one or more bad records; `read` sets their positions.
        quarantine: lists them if they may be skipped; None: they may not.

    Attributes:
        found, quarantine: the arguments.
    """

    def __init__(self, found: Sequence[BadRecord], quarantine: Quarantine | None = None):
        self.found, self.quarantine = list(found), quarantine
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        super().__init__(
            f"{str(found[0]).rstrip('.')}{more}. Repair the data, or skip such records with "
            'on_bad_record="skip".'
        )

    def at(self, positions: np.ndarray) -> "BadRecords":
        """Returns the same error with positions of an outer read.

        Args:
            positions: int array; the position in the outer read of each index of the inner read.
        """
        found = [
            bad if bad.position is None else bad._replace(position=int(positions[bad.position]))
            for bad in self.found
        ]
        return BadRecords(found, self.quarantine)


def report_bad(found: Sequence[BadRecord], quarantine: Quarantine | None) -> None:
    """Adds records that are found bad to the quarantine, or raises BadRecords without one."""
    if not found:
        return
    if quarantine is None:
        raise BadRecords(found)
    quarantine.add(found)


def read_good(
    source: Any, indices: np.ndarray, used: set[Quarantine] | None = None
) -> tuple[Any, np.ndarray]:
    """Reads examples and skips the bad ones if the source allows it.

    Args:
        source: a Source.
        indices: int64 [n].
        used: a set to which the quarantines of skipped records are added.

    Returns:
        (batch, kept): the batch of the good examples, and a bool array of shape [n]. If none is
        good, the batch is None.

    Raises:
        BadRecords: some records are bad, and the source does not skip them.
    """
    kept = np.ones([len(indices)], bool)
    while kept.any():
        try:
            return source.read(indices[kept]), kept
        except BadRecords as error:
            positions = [bad.position for bad in error.found if bad.position is not None]
            if error.quarantine is None or not positions:
                raise
            error.quarantine.add(error.found)
            if used is not None:
                used.add(error.quarantine)
            kept[np.flatnonzero(kept)[positions]] = False
    return None, kept


def find_bad_records(source: Any, chunk: int = 1024) -> dict[int, BadRecord]:
    """Reads a source once and returns the examples that cannot be read.

    Example:

        bad = tfbig.data.find_bad_records(source)
        good = source.select(np.setdiff1d(np.arange(len(source)), list(bad)))

    Args:
        source: a Source.
        chunk: number of examples per read.

    Returns:
        The bad records by example number; {} if all are good. No quarantine file is written.
    """
    bad: dict[int, BadRecord] = {}
    for start in range(0, len(source), chunk):
        indices = np.arange(start, min(start + chunk, len(source)))
        while len(indices):
            try:
                source.read(indices)
                break
            except BadRecords as error:
                found = {int(indices[b.position]): b for b in error.found if b.position is not None}
                if not found:
                    raise
                bad.update(found)
                indices = indices[~np.isin(indices, list(found))]
    return bad


def concatenate_batches(batches: Sequence[Any]) -> Any:
    """Concatenates batches of the same structure along the first dimension."""
    if len(batches) == 1:
        return batches[0]
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *batches)
