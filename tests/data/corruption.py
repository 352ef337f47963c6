"""Random damage to real files, and what a source may make of it; run in processes of its own.

A case damages one of a source's files, before the source is first made, between two times that it
is made (so that what it keeps beside its files is out of date), or while it is open. Then all of
it is read, once with errors and once with bad records left out.
"""

import collections
import faulthandler
import json
import pathlib
import shutil
import traceback

import numpy as np

from tests.data import corruption_kinds
from tfbig.data.bad_records import read_good
from tfbig.errors import UserError

SECONDS = 60  # that one case may take
_OPERATIONS = ("flip", "flip", "cut", "delete", "insert", "zero", "swap", "empty", "vanish")
_TIMES = ("fresh", "fresh", "kept", "open")


def run(kind_name: str, seeds: list[int], folder: str) -> dict:
    """Runs cases of a kind of source.

    Args:
        kind_name: one of corruption_kinds.KINDS.
        seeds: of the cases.
        folder: an empty one.

    Returns:
        {"failures": sentences, "outcomes": how many cases ended in what}.
    """
    folder = pathlib.Path(folder)
    kind = corruption_kinds.KINDS[kind_name]()
    original = folder / "original"
    original.mkdir()
    records = kind.write(original)
    failures, outcomes = [], collections.Counter()
    for seed in seeds:
        for on_bad_record in ("error", "skip"):
            place = folder / "data"
            shutil.copytree(original, place)
            case = Case(kind, records, place, seed, on_bad_record)
            (folder / "case.txt").write_text(str(case))  # what to look at after a crash
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                outcomes[case.run()] += 1
            except Wrong as error:
                failures.append(f"{case}: {error}")
            except Exception:
                failures.append(f"{case}: {traceback.format_exc()}")
            faulthandler.cancel_dump_traceback_later()
            shutil.rmtree(place)
    return {"failures": failures, "outcomes": dict(outcomes)}


class Wrong(Exception):
    """A source did what it may not do."""


class Case:
    """One damage, and one way of reading after it.

    Args:
        kind: of the source.
        records: what `kind.write` returned.
        folder: a copy of what it wrote.
        seed: of the damage.
        on_bad_record: "error" or "skip".
    """

    def __init__(self, kind, records, folder, seed, on_bad_record):
        random = np.random.default_rng([seed, len(records)])
        self._kind, self._folder, self._on_bad_record = kind, folder, on_bad_record
        self._records = {folder / name: keys for name, keys in records.items()}
        self._file = folder / str(random.choice(sorted(records)))
        self._time = str(random.choice(_TIMES))
        self._operation = str(random.choice(_OPERATIONS))
        if self._time == "open" and kind.mapped and self._operation not in ("flip", "vanish"):
            self._time = "kept"  # a mapped file that is cut while it is read ends any process
        self._random = random
        self._name = f"{seed}, {self._operation} {self._file.name}, {self._time}, {on_bad_record}"

    def __str__(self):
        return self._name

    def run(self) -> str:
        """The outcome; raises Wrong where it is none of those allowed."""
        try:
            read = self._read()
        except UserError as error:
            self._check_error(error)
            return type(error).__name__
        entries = self._entries()
        if self._on_bad_record == "error" and entries:
            raise Wrong("wrote a quarantine file that was not asked for")
        self._check_account(read, entries)
        if entries:
            return "left out"
        return "unharmed" if read == self._all() else "changed"

    def _read(self) -> collections.Counter:
        """How often each record was read."""
        options = {"on_bad_record": self._on_bad_record}
        if self._on_bad_record == "skip":
            options["quarantine"] = str(self._folder / "quarantine.jsonl")
        paths = sorted(map(str, self._records))
        source = None
        if self._time != "fresh":
            source = self._kind.open(self._folder, paths, options)
            self._numbers(source)
        damage(self._file, self._operation, self._random)
        if self._time != "open":
            source = self._kind.open(self._folder, paths, options)
        return self._numbers(source)

    def _numbers(self, source) -> collections.Counter:
        read = collections.Counter()
        order = self._random.permutation(len(source))
        for start in range(0, len(order), 16):
            batch, _ = read_good(source, order[start : start + 16])
            if batch is not None:
                read.update(self._kind.keys(batch))
        return read

    def _entries(self) -> list[dict]:
        path = self._folder / "quarantine.jsonl"
        if not path.exists():
            return []
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        for entry in entries:
            if pathlib.Path(entry["file"]) not in self._records or not entry["reason"]:
                raise Wrong(f"put {entry} in the quarantine")
        return entries

    def _check_error(self, error: UserError) -> None:
        if self._file.name not in str(error):
            raise Wrong(f"raised an error that does not name the file: {error!r}")
        if "\n" in str(error) or len(str(error)) > 2000:
            raise Wrong(f"raised an error that is not a sentence: {error!r}")
        may = self._on_bad_record == "error" or self._operation == "vanish"
        if not (may or self._kind.whole):
            raise Wrong(f"raised an error instead of leaving records out: {error!r}")

    def _check_account(self, read: collections.Counter, entries: list[dict]) -> None:
        twice = [key for key, count in read.items() if count > self._all()[key]]
        if twice and self._kind.checksums:
            raise Wrong(f"read {twice[0]!r} more than once")
        problem = self._kind.problem(self._records, read, entries, self._time == "open")
        if problem:
            raise Wrong(f"{problem}; entries: {entries[:3]}")

    def _all(self) -> collections.Counter:
        return collections.Counter(key for keys in self._records.values() for key in keys)


def damage(path: pathlib.Path, operation: str, random: np.random.Generator) -> None:
    """Damages a file.

    Args:
        path: of the file.
        operation: one of _OPERATIONS.
        random: draws where and what.
    """
    if operation == "vanish":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    size = len(data)
    at = int(random.integers(size))
    length = int(random.integers(1, min(200, size // 3)))
    if operation == "flip":
        for place in random.integers(size, size=random.integers(1, 5)):
            data[place] ^= 1 << int(random.integers(8))
    elif operation == "cut":
        del data[at:]
    elif operation == "delete":
        del data[at : at + length]
    elif operation == "insert":
        data[at:at] = random.bytes(length)
    elif operation == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif operation == "swap":
        first, second = sorted(random.choice(size // length, 2, replace=False) * length)
        one, other = data[first : first + length], data[second : second + length]
        data[first : first + length], data[second : second + length] = other, one
    else:
        data.clear()
    path.write_bytes(data)
