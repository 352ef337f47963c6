"""Records that cannot be read: an error that names them, or a count and a quarantine file."""

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
        file: its path.
        record: its number in that file, counted from 0; None: the file as a whole.
        reason: what is wrong, without a full stop: "its checksum is wrong".
        position: its place in the indices that were being read; None: found otherwise.
    """

    file: str
    record: int | None
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        # A name of bytes that are no UTF-8 could not be printed.
        file = self.file.encode("utf-8", "backslashreplace").decode()
        where = file if self.record is None else f"{file}, record {self.record}"
        return f"{where}: {self.reason}"


class Quarantine:
    """Keeps account of the records that were left out, each once, in a file of JSON lines.

    Args:
        path: made when the first record is left out; a line has file, record and reason. What an
            earlier run has written to it is not written again.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self._seen: set[tuple[str, int | None]] = set()
        self._lines: set[str] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many records were left out in this process."""
        return len(self._seen)

    def add(self, found: Sequence[BadRecord]) -> None:
        """Writes down records that were not written down yet; logs the first of all."""
        with self._lock:
            new = {(bad.file, bad.record): bad for bad in found}
            new = [bad for place, bad in new.items() if place not in self._seen]
            if not new:
                return
            if not self._seen:
                log.warning(
                    "a bad record is left out: %s (all are listed in %s)", new[0], self.path
                )
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
    """What a source's arguments on_bad_record and quarantine ask for; None: raise errors.

    Args:
        on_bad_record: "error" or "skip".
        quarantine: the file, or None: `beside` with ".quarantine.jsonl" added, or a file in the
            cache folder where that folder cannot be written.
        beside: the path of the data.

    Raises:
        UserError: on_bad_record is something else, or the quarantine is not used or not local.
    """
    if on_bad_record not in ("error", "skip"):
        raise UserError(f'on_bad_record={on_bad_record!r}: expected "error" or "skip".')
    if on_bad_record == "error":
        if quarantine is not None:
            raise UserError(
                f"quarantine={os.fspath(quarantine)!r} is only used with "
                'on_bad_record="skip"; add that, or leave quarantine out.'
            )
        return None
    if quarantine is not None and files.is_remote(os.fspath(quarantine)):
        raise UserError(
            f"quarantine={os.fspath(quarantine)!r}: lines are added to it, which needs a local "
            "file; write a local path."
        )
    return Quarantine(quarantine or files.beside_or_cached(beside, ".quarantine.jsonl"))


class BadRecords(UserError):
    """Raised by `Source.read` when records cannot be read.

    Args:
        found: one or more; with their positions when `read` raises it.
        quarantine: where they go instead if they may be left out, else None.

    Attributes:
        found, quarantine: as given.
    """

    def __init__(self, found: Sequence[BadRecord], quarantine: Quarantine | None = None):
        self.found, self.quarantine = list(found), quarantine
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        super().__init__(
            f"{str(found[0]).rstrip('.')}{more}. Repair the data, or leave such records out with "
            'on_bad_record="skip".'
        )

    def at(self, positions: np.ndarray) -> "BadRecords":
        """The same for a caller that had read these records as part of more.

        Args:
            positions: int array; where each index of the inner read stood in the outer one.
        """
        found = [
            bad if bad.position is None else bad._replace(position=int(positions[bad.position]))
            for bad in self.found
        ]
        return BadRecords(found, self.quarantine)


def report(found: Sequence[BadRecord], quarantine: Quarantine | None) -> None:
    """For what is found while a source is made: quarantines it, or raises BadRecords."""
    if not found:
        return
    if quarantine is None:
        raise BadRecords(found)
    quarantine.add(found)


def read_good(
    source: Any, indices: np.ndarray, used: set[Quarantine] | None = None
) -> tuple[Any, np.ndarray]:
    """Reads examples, without those that are bad where the source says that they may be left out.

    Args:
        source: a Source.
        indices: int64 [n].
        used: gets the quarantines that records were put in.

    Returns:
        (batch, kept): what `source.read` returns for the good ones, and a bool array of shape
        [n]. With none left, the batch is None.

    Raises:
        BadRecords: some are bad, and are not to be left out.
    """
    kept = np.ones([len(indices)], bool)
    while kept.any():
        try:
            return source.read(indices[kept]), kept
        except BadRecords as error:
            places = [bad.position for bad in error.found if bad.position is not None]
            if error.quarantine is None or not places:
                raise
            error.quarantine.add(error.found)
            if used is not None:
                used.add(error.quarantine)
            kept[np.flatnonzero(kept)[places]] = False
    return None, kept


def find_bad_records(source: Any, chunk: int = 1024) -> dict[int, BadRecord]:
    """Reads a whole source once and finds the examples that cannot be read.

    Example:

        bad = tfbig.data.find_bad_records(source)
        good = source.select(np.setdiff1d(np.arange(len(source)), list(bad)))

    Args:
        source: a Source.
        chunk: examples read at once.

    Returns:
        The bad records by their example's number; {} when all are good. Nothing is written.
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


def concatenated(batches: Sequence[Any]) -> Any:
    """Batches of the same structure, one after the other."""
    if len(batches) == 1:
        return batches[0]
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *batches)
