"""Whether what is tested has been trained on: examples and groups that are in two parts."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.bad_records import read_good
from tfbig.data.keys import codes_of, digests
from tfbig.data.source import Source
from tfbig.data.sources.array_source import ArraySource
from tfbig.data.split import PARTS, Split
from tfbig.errors import UserError

_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class LeakReport:
    """What `check_leaks` found. Each is an int64 array [n, 2] of pairs of examples.

    The first of a pair is in a later part (train, validation, test) than the second. Leaving
    the first ones out of their parts mends the leak:
    `np.setdiff1d(split.test, report.duplicates[:, 0])`.

    Attributes:
        overlaps: twice the same number, where an example itself is in two parts.
        groups: an example, and the first example of its group in an earlier part.
        duplicates: an example, and its first equal in an earlier part.
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
            ("overlaps", "are in two parts themselves"),
            ("groups", "have their group in an earlier part too"),
            ("duplicates", "have an equal in an earlier part"),
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
    """Looks for examples that are in two parts: by number, by group, or as equal copies.

    Example:

        report = check_leaks(split, groups=patients, examples=source)
        print(report)  # 2 examples have an equal in an earlier part: 907 (3), 911 (40)

    Args:
        split: its parts.
        groups: group of each example of the data, shape [length]: integers, strings or the like.
        examples: a Source, or what ArraySource takes, whose copies are looked for. Of (features,
            labels) only the features are compared, so that a copy with another label is found.
            Bit for bit, by hashes of 64 bits: among 10 million different examples, the
            chance of one false alarm is 3 in a million. Bad records are left out where the
            source says so.
        raise_on_leak: raise an error if anything is found.
        chunk: examples read at once.

    Returns:
        What was found.

    Raises:
        UserError: there are leaks and raise_on_leak is set, or the split is not one of these data.
    """
    numbers = np.concatenate([getattr(split, name) for name in PARTS])
    parts = np.repeat(np.arange(len(PARTS)), [len(getattr(split, name)) for name in PARTS])
    overlaps = _repeats(numbers, numbers, parts)
    grouped = copied = np.zeros([0, 2], np.int64)
    if groups is not None:
        codes, _ = codes_of(groups, "groups")
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
        raise UserError(f"the split leaks: {report}. Leave these examples out of the later part.")
    return report


def _repeats(keys: np.ndarray, numbers: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Pairs of an example and the first with its key, where that is in an earlier part.

    Args:
        keys, numbers, parts: of each example, those of earlier parts first.
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
            hashes[places] = digests(_rows(batch[0] if isinstance(batch, tuple) else batch))
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
            "give those that were split."
        )
