"""Train, validation and test parts as lists of example numbers; no data are copied.

    split = tfbig.data.splitting.stratified(source.labels, (0.8, 0.1, 0.1), seed=0)
    train, test = source.select(split.train), source.select(split.test)

Every result is a function of the arguments alone. `by_fraction`, `stratified`, `by_group`,
`by_time`, `by_hash` and plain `folds` are computed here with SplitMix64 and BLAKE2b, so that they
are the same under every version of every library. `folds` with labels or groups are
scikit-learn's, and may change with its version.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfbig._optional import load
from tfbig.data.keys import codes_of, digests, key_of, one_dimensional, random_of
from tfbig.data.leaks import LeakReport, check_leaks
from tfbig.data.split import Split
from tfbig.errors import UserError

__all__ = [
    "LeakReport",
    "Split",
    "by_fraction",
    "by_group",
    "by_hash",
    "by_time",
    "check_leaks",
    "folds",
    "stratified",
]

_SHOWN = 5


def by_fraction(length: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Splits at random.

    Example: `split = by_fraction(len(source), (0.9, 0.1))`.

    Args:
        length: number of examples.
        fractions: two numbers for (train, test) or three for (train, validation, test); they add
            up to 1. A part with a fraction above 0 has one example at least.
        seed: an integer; another one gives another split.

    Raises:
        UserError: the fractions do not add up to 1, or there are fewer examples than parts.
    """
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)):
        raise UserError(
            f"by_fraction({length!r}): expected the number of examples; write len(source)."
        )
    shares = _checked_fractions(fractions)
    used = np.flatnonzero(shares)
    ends = np.rint(np.cumsum(shares[used]) * length).astype(np.int64)
    ends = _filled(ends, length, "examples")
    if len(used) == 1:
        return _split_of(np.full(length, used[0], np.int8))
    scores = random_of(np.arange(length, dtype=np.uint64), key_of("by_fraction", seed))
    limits = np.partition(scores, ends[:-1])[ends[:-1]]
    return _split_of(used[np.searchsorted(limits, scores, side="right")])


def stratified(
    labels: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0, rare: str = "error"
) -> Split:
    """Splits at random so that every part has every class in its share.

    A class with n examples has either floor(n f) or ceil(n f) of them in a part of fraction f.
    So a class of few examples may miss in a small part.

    Args:
        labels: class of each example: shape [n], integers, strings or the like; `source.labels`.
        fractions, seed: as in `by_fraction`.
        rare: what happens to classes with fewer examples than there are parts: "error", or
            "train": all of their examples are trained on, and none is tested.

    Raises:
        UserError: a class is too small, a label is missing, or the fractions do not add up to 1.
    """
    shares = _checked_fractions(fractions)
    codes, classes = codes_of(labels, "labels")
    sizes = np.bincount(codes, minlength=len(classes))
    few = sizes < np.count_nonzero(shares)
    if rare not in ("error", "train"):
        raise UserError(f'rare={rare!r}: expected "error" or "train".')
    if few.any() and rare == "error":
        raise UserError(
            f"stratified: {_small(few, sizes, classes)}, fewer than the "
            f'{np.count_nonzero(shares)} parts. Merge such classes, or write rare="train" to keep '
            "them out of the other parts."
        )
    ends = np.cumsum(_class_counts(sizes, few, shares), axis=1)
    scores = random_of(np.arange(len(codes), dtype=np.uint64), key_of("stratified", seed))
    order = np.lexsort([scores, codes])
    within = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[codes[order]]
    parts = np.empty(len(codes), np.int8)
    parts[order] = sum((within >= ends[codes[order], part]).astype(np.int8) for part in range(2))
    return _split_of(parts)


def by_group(groups: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Splits at random so that no group is in two parts: patients, users, documents.

    The groups are put in a random order and cut where the examples come closest to the
    fractions, so a part is off by half a group at each of its ends, or less. Each part with a
    fraction above 0 has one group at least. When data grow, groups move; `by_hash(groups)` keeps
    them in their parts.

    Args:
        groups: group of each example: shape [n], integers, strings or the like.
        fractions, seed: as in `by_fraction`.

    Raises:
        UserError: there are fewer groups than parts, or an example has none.
    """
    shares = _checked_fractions(fractions)
    codes, names = codes_of(groups, "groups")
    scores = random_of(np.arange(len(names), dtype=np.uint64), key_of("by_group", seed))
    order = np.argsort(scores)
    parts = np.empty(len(names), np.int8)
    parts[order] = _cut(np.bincount(codes, minlength=len(names))[order], shares, "groups")
    return _split_of(parts[codes])


def by_time(times: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> Split:
    """Splits by age: the oldest examples are trained on, the newest tested.

    Examples of one time are never in two parts; the cut is made at the time that comes closest
    to the fractions.

    Args:
        times: shape [n], numbers, datetime64 or datetime objects.
        fractions: as in `by_fraction`.

    Raises:
        UserError: there are fewer times than parts, one is missing, or they are strings.
    """
    shares = _checked_fractions(fractions)
    times = _as_times(times)
    _moments, codes, sizes = np.unique(times, return_inverse=True, return_counts=True)
    return _split_of(_cut(sizes, shares, "different times")[codes])


def by_hash(keys: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1), salt: str = "") -> Split:
    """Splits by a hash of each example's key: an example never changes its part when data grow.

    Equal keys are in the same part. The parts have their fractions on average only, and a small
    one may be empty. Integers go through SplitMix64 (Steele et al., 2014), strings and bytes
    through BLAKE2b (RFC 7693), so 7 and "7" are different keys, "a" and b"a" the same one.

    Args:
        keys: shape [n], integers, strings or bytes: a file name, a user's number.
        fractions: as in `by_fraction`. Where train grows, it keeps what it had.
        salt: another one gives another split.

    Raises:
        UserError: the fractions do not add up to 1, or a key is something else.
    """
    shares = _checked_fractions(fractions)
    keys = one_dimensional(keys, "keys")
    if keys.dtype.kind in "iu":
        scores = random_of(keys.astype(np.uint64), key_of("by_hash", salt))
    elif keys.dtype.kind in "SUOT":
        prefix = key_of("by_hash", salt).to_bytes(8, "little")
        scores = digests(prefix + key for key in _as_bytes(keys))
    else:
        raise UserError(f"by_hash: keys are {keys.dtype.name}; give integers, strings or bytes.")
    uniform = (scores >> np.uint64(11)) * 2.0**-53  # exact in float64, so the same everywhere
    used = np.flatnonzero(shares)
    return _split_of(used[np.searchsorted(np.cumsum(shares[used])[:-1], uniform, side="right")])


def folds(
    length: int, k: int = 5, *, labels: Any = None, groups: Any = None, seed: int = 0
) -> list[Split]:
    """Splits k times for cross-validation; each example is in one test part.

    Example: `for split in folds(len(source), 5, labels=source.labels): ...`

    Args:
        length: number of examples.
        k: number of folds, 2 or more.
        labels: class of each example, if the folds are to have equal shares of every class
            (scikit-learn's StratifiedKFold).
        groups: group of each example, if no group may be in two folds (GroupKFold, in which the
            seed only breaks ties; with labels too, StratifiedGroupKFold).
        seed: an integer.

    Returns:
        k splits with train and test parts.

    Raises:
        UserError: there are fewer than k examples, groups, or examples of a class.
    """
    if not isinstance(k, (int, np.integer)) or k < 2:
        raise UserError(f"folds: k={k!r}; expected an integer of 2 or more.")
    if length < k:
        raise UserError(f"folds: {length} examples cannot fill {k} folds; write fewer folds.")
    fold = np.empty(length, np.int32)
    if labels is None and groups is None:
        scores = random_of(np.arange(length, dtype=np.uint64), key_of("folds", seed))
        fold[np.argsort(scores)] = np.arange(length) * k // length
    else:
        for number, (_, test) in enumerate(_sklearn_folds(length, k, labels, groups, seed)):
            fold[test] = number
    return [
        Split(train=np.flatnonzero(fold != i), test=np.flatnonzero(fold == i)) for i in range(k)
    ]


def _sklearn_folds(
    length: int, k: int, labels: Any, groups: Any, seed: int
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    from sklearn import model_selection

    state = key_of("folds", seed) % 2**32
    rows = np.zeros([length, 1], np.int8)
    if labels is not None:
        labels, classes = codes_of(labels, "labels", length)
        sizes = np.bincount(labels, minlength=len(classes))
        if sizes.min() < k:
            raise UserError(
                f"folds: {_small(sizes < k, sizes, classes)}, fewer than the {k} folds. Merge such "
                "classes, write fewer folds, or leave labels out."
            )
    if groups is None:
        return model_selection.StratifiedKFold(k, shuffle=True, random_state=state).split(
            rows, labels
        )
    groups, names = codes_of(groups, "groups", length)
    if len(names) < k:
        raise UserError(f"folds: {len(names)} groups cannot fill {k} folds; write fewer folds.")
    if labels is not None:
        splitter = model_selection.StratifiedGroupKFold(k, shuffle=True, random_state=state)
        return splitter.split(rows, labels, groups)
    # GroupKFold takes groups of one size by their numbers, so these are drawn anew
    renamed = np.argsort(random_of(np.arange(len(names), dtype=np.uint64), key_of("folds", seed)))
    return model_selection.GroupKFold(k).split(rows, groups=renamed[groups])


def _checked_fractions(fractions: Sequence[float]) -> np.ndarray:
    """(train, validation, test), float64, that add up to 1."""
    try:
        shares = np.asarray(fractions, np.float64)
    except (TypeError, ValueError):
        shares = np.zeros(0)
    if shares.shape not in ((2,), (3,)) or not np.all(shares >= 0) or shares[0] == 0:
        raise UserError(
            f"fractions={fractions!r}: expected (train, test) or (train, validation, test), "
            "numbers of 0 or more with train above 0."
        )
    if abs(shares.sum() - 1) > 1e-6:
        raise UserError(
            f"fractions={fractions!r} add up to {shares.sum():g}; write numbers that add up to 1."
        )
    shares = shares / shares.sum()
    return shares if len(shares) == 3 else np.array([shares[0], 0, shares[1]])


def _filled(ends: np.ndarray, units: int, what: str) -> np.ndarray:
    """Where each part ends among units in a row, with one unit at least in each."""
    if units < len(ends):
        raise UserError(f"{units} {what} cannot fill {len(ends)} parts; give more, or fewer parts.")
    least = np.arange(len(ends)) + 1
    for i in range(len(ends)):
        before = ends[i - 1] if i else 0
        ends[i] = min(max(ends[i], before + 1), units - len(ends) + least[i])
    return ends


def _cut(sizes: np.ndarray, shares: np.ndarray, what: str) -> np.ndarray:
    """The part of each unit, with units (of so many examples) in a row."""
    used = np.flatnonzero(shares)
    middles = np.cumsum(sizes) - sizes / 2
    ends = np.searchsorted(middles, np.cumsum(shares[used]) * sizes.sum())
    ends = _filled(ends, len(sizes), what)
    return used[np.searchsorted(ends[:-1], np.arange(len(sizes)), side="right")]


def _class_counts(sizes: np.ndarray, few: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """How many examples of each class a part has; what is left goes where most is owed."""
    exact = sizes[:, None] * shares
    counts = np.floor(exact + 1e-9).astype(np.int64)
    owed = np.zeros(3)
    for c in range(len(sizes)):
        if few[c]:
            counts[c] = sizes[c], 0, 0
            continue
        over = exact[c] - counts[c]
        owed += over
        for _ in range(sizes[c] - counts[c].sum()):
            part = np.argmax(np.where(over > 1e-9, owed, -np.inf))
            counts[c, part] += 1
            owed[part] -= 1
            over[part] = 0
    return counts


def _split_of(parts: np.ndarray) -> Split:
    return Split(*(np.flatnonzero(parts == part) for part in range(3)))


def _as_bytes(keys: np.ndarray) -> Iterable[bytes]:
    for row, key in enumerate(keys.tolist()):
        if isinstance(key, str):
            key = key.encode("utf-8", "surrogatepass")
        elif not isinstance(key, bytes):
            raise UserError(
                f"by_hash: key {row} is {key!r}; give integers, strings or bytes, all of one kind."
            )
        yield key


def _as_times(times: Any) -> np.ndarray:
    pd = load("pandas", "by_time")

    array = one_dimensional(times, "times")
    if array.dtype.kind in "SUT" or any(isinstance(time, (str, bytes)) for time in array[:1]):
        raise UserError(
            "by_time: the times are strings, whose order need not be that of time; write "
            "pandas.to_datetime(times)."
        )
    if array.dtype.kind == "O":
        array = pd.to_datetime(array, utc=True).to_numpy()
    missing = np.flatnonzero(pd.isna(array))
    if len(missing):
        raise UserError(f"by_time: example {missing[0]} has no time (NaN or NaT); fill it in.")
    return array


def _small(few: np.ndarray, sizes: np.ndarray, classes: np.ndarray) -> str:
    first = ", ".join(
        f"{classes.tolist()[c]!r} has {sizes[c]}" for c in np.flatnonzero(few)[:_SHOWN]
    )
    more = f" (and {few.sum() - _SHOWN} more classes)" if few.sum() > _SHOWN else ""
    return f"class {first}{more}"
