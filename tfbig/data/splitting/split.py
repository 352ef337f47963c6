"""The parts of a split, and a check that no example or group is in two of them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.bad_records import read_good
from tfbig.data.source import Source
from tfbig.data.sources.array_source import ArraySource
from tfbig.data.splitting.keys import factorize, hash_rows
from tfbig.errors import UserError

PARTS = ("train", "validation", "test")
_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The example numbers of each part: sorted int64 arrays.

    Example: `Split(train=[0, 1, 2], test=[3])` has an empty validation part.
    """

    train: np.ndarray
    validation: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    test: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        for name in PARTS:
            part = np.asarray(getattr(self, name))
            if part.ndim != 1 or (part.size and part.dtype.kind not in "iu"):
                raise UserError(
                    f"Split: {name} is {part.dtype.name} of shape {list(part.shape)}; expected "
                    "example numbers: integers of shape [n]."
                )
            object.__setattr__(self, name, np.sort(part.astype(np.int64)))

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{name}: {len(getattr(self, name))}' for name in PARTS)})"


@dataclasses.dataclass(frozen=True, eq=False)
class LeakReport:
    """The leaks that `check_leaks` found, as int64 arrays [n, 2] of pairs of example numbers.

    The first example of a pair is in a later part (train, validation, test) than the second.
    To fix the leak, remove the first ones from their parts:
    `np.setdiff1d(split.test, report.duplicates[:, 0])`.

    Attributes:
        overlaps: examples that are in two parts; both numbers of a pair are equal.
        groups: an example, and the first example of its group in an earlier part.
        duplicates: an example, and its first copy in an earlier part.
    """

    overlaps: np.ndarray
    groups: np.ndarray
    duplicates: np.ndarray

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (len(self.overlaps) or len(self.groups) or len(self.duplicates))

    def __str__(self) -> str:
        if self.clean:
            return "no leaks"
        parts = []
        for name, meaning in (
            ("overlaps", "are in two parts"),
            ("groups", "belong to a group of an earlier part"),
            ("duplicates", "have a copy in an earlier part"),
        ):
            pairs = getattr(self, name)
            if len(pairs):
                first = ", ".join(f"{a} ({b})" for a, b in pairs[:_SHOWN].tolist())
                dots = ", …" if len(pairs) > _SHOWN else ""
                parts.append(f"{len(pairs)} examples {meaning}: {first}{dots}")
        return "; ".join(parts)


def check_leaks(
    split: Split,
    *,
    groups: Any = None,
    examples: Any = None,
    raise_on_leak: bool = False,
    chunk: int = 1024,
) -> LeakReport:
    """Finds examples that are in two parts: by number, by group, or as copies.

    Example:

        report = check_leaks(split, groups=patients, examples=source)
        print(report)  # 2 examples have a copy in an earlier part: 907 (3), 911 (40)

    Args:
        split: the split to check.
        groups: group of each example of the data, shape [length]: integers, strings or similar.
        examples: a Source, or anything that ArraySource accepts, to search for copies. Of
            (features, labels) only the features are compared, so a copy with another label is
            found too. The comparison is exact to the bit and uses 64-bit hashes: among 10 million
            different examples, the chance of one false alarm is 3 in a million. Bad records are
            skipped if the source allows it.
        raise_on_leak: raise an error if there is a leak.
        chunk: number of examples per read.

    Raises:
        UserError: there are leaks and raise_on_leak is set, or the split has examples that the
            data do not have.
    """
    numbers = np.concatenate([getattr(split, name) for name in PARTS])
    parts = np.repeat(np.arange(len(PARTS)), [len(getattr(split, name)) for name in PARTS])
    overlaps = _repeats(numbers, numbers, parts)
    grouped = copied = np.zeros([0, 2], np.int64)
    if groups is not None:
        codes, _ = factorize(groups, "groups")
        _check_range(numbers, len(codes), "groups")
        grouped = _repeats(codes[numbers], numbers, parts)
    if examples is not None:
        source = examples if isinstance(examples, Source) else ArraySource(examples)
        _check_range(numbers, len(source), "examples")
        different, places = np.unique(numbers, return_inverse=True)
        hashes, readable = _hashes(source, different, chunk)
        kept = readable[places]
        copied = _repeats(hashes[places][kept], numbers[kept], parts[kept])
    report = LeakReport(
        overlaps,
        *(pairs[pairs[:, 0] != pairs[:, 1]] for pairs in (grouped, copied)),
    )
    if raise_on_leak and not report.clean:
        raise UserError(f"the split leaks: {report}. Remove these examples from the later part.")
    return report


def _repeats(keys: np.ndarray, numbers: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Pairs of an example and the first example with the same key, if that is in an earlier part.

    Args:
        keys, numbers, parts: one entry for each example; earlier parts come first.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    earliest = first[inverse]
    leaks = parts > parts[earliest]
    return np.stack([numbers[leaks], numbers[earliest[leaks]]], axis=1)


def _hashes(source: Source, numbers: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each example's features, and whether the example can be read."""
    hashes, readable = np.zeros(len(numbers), np.uint64), np.zeros(len(numbers), bool)
    for start in range(0, len(numbers), chunk):
        batch, kept = read_good(source, numbers[start : start + chunk])
        readable[start : start + chunk] = kept
        if batch is not None:
            places = start + np.flatnonzero(kept)
            hashes[places] = hash_rows(_rows(batch[0] if isinstance(batch, tuple) else batch))
    return hashes, readable


def _rows(features: Any) -> Iterator[bytes]:
    """The bytes of each example."""
    leaves = [_leaf_rows(np.asarray(leaf)) for leaf in tf.nest.flatten(features)]
    return (b"".join(row) for row in zip(*leaves, strict=True))


def _leaf_rows(array: np.ndarray) -> list[bytes]:
    if array.dtype.kind in "OSUT":
        flat = array.reshape(len(array), -1).tolist()
        return [b"".join(_with_length(item) for item in row) for row in flat]
    data = np.ascontiguousarray(array).tobytes()
    size = len(data) // max(len(array), 1)
    return [data[row * size : (row + 1) * size] for row in range(len(array))]


def _with_length(item: Any) -> bytes:
    data = item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data


def _check_range(numbers: np.ndarray, length: int, what: str) -> None:
    outside = numbers[(numbers < 0) | (numbers >= length)]
    if len(outside):
        raise UserError(
            f"check_leaks: the split has example {outside[0]}, but there are {length} {what}; "
            "pass the data that were split."
        )
