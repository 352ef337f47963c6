"""The ways to split data: at random, by class, group, time or hash, and into folds."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfbig._optional import load
from tfbig.data.splitting.keys import as_vector, factorize, hash_rows, hash_seed, splitmix64
from tfbig.data.splitting.split import Split
from tfbig.errors import UserError

_SHOWN = 5


def by_fraction(length: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Splits at random.

    Example: `split = by_fraction(len(source), (0.9, 0.1))`.

    Args:
        length: number of examples.
        fractions: two numbers for (train, test) or three for (train, validation, test); they sum
            to 1. A part with a fraction above 0 has at least one example.
        seed: an integer; another seed gives another split.

    Raises:
        UserError: the fractions do not sum to 1, or there are fewer examples than parts.
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
    scores = splitmix64(np.arange(length, dtype=np.uint64), hash_seed("by_fraction", seed))
    limits = np.partition(scores, ends[:-1])[ends[:-1]]
    return _split_of(used[np.searchsorted(limits, scores, side="right")])


def stratified(
    labels: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0, rare: str = "error"
) -> Split:
    """Splits at random so that the classes have the same proportions in every part.

    Of a class with n examples, a part of fraction f has either floor(n f) or ceil(n f). So a
    small part may have no example of a rare class.

    Args:
        labels: class of each example: shape [n], integers, strings or similar; `source.labels`.
        fractions, seed: as in `by_fraction`.
        rare: how to treat classes with fewer examples than there are parts: "error" raises an
            error, "train" puts all their examples into the training part.

    Raises:
        UserError: a class is too small, a label is missing, or the fractions do not sum to 1.
    """
    shares = _checked_fractions(fractions)
    codes, classes = factorize(labels, "labels")
    sizes = np.bincount(codes, minlength=len(classes))
    few = sizes < np.count_nonzero(shares)
    if rare not in ("error", "train"):
        raise UserError(f'rare={rare!r}: expected "error" or "train".')
    if few.any() and rare == "error":
        raise UserError(
            f"stratified: {_small(few, sizes, classes)}, fewer than the "
            f'{np.count_nonzero(shares)} parts. Merge such classes, or pass rare="train" to use '
            "them for training only."
        )
    ends = np.cumsum(_class_counts(sizes, few, shares), axis=1)
    scores = splitmix64(np.arange(len(codes), dtype=np.uint64), hash_seed("stratified", seed))
    order = np.lexsort([scores, codes])
    within = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[codes[order]]
    parts = np.empty(len(codes), np.int8)
    parts[order] = sum((within >= ends[codes[order], part]).astype(np.int8) for part in range(2))
    return _split_of(parts)


def by_group(groups: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Splits at random so that no group (a patient, a user, a document) is in two parts.

    The groups are put in random order and divided so that the numbers of examples are as close
    as possible to the fractions. The error at each boundary is at most half a group. Each part
    with a fraction above 0 has at least one group. When examples are added, groups may change
    their part; with `by_hash(groups)` they do not.

    Args:
        groups: group of each example: shape [n], integers, strings or similar.
        fractions, seed: as in `by_fraction`.

    Raises:
        UserError: there are fewer groups than parts, or an example has no group.
    """
    shares = _checked_fractions(fractions)
    codes, names = factorize(groups, "groups")
    scores = splitmix64(np.arange(len(names), dtype=np.uint64), hash_seed("by_group", seed))
    order = np.argsort(scores)
    parts = np.empty(len(names), np.int8)
    parts[order] = _cut(np.bincount(codes, minlength=len(names))[order], shares, "groups")
    return _split_of(parts[codes])


def by_time(times: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> Split:
    """Splits by time: the oldest examples are the training part, the newest the test part.

    Examples with the same time are in the same part. The boundaries are the times that come
    closest to the fractions.

    Args:
        times: shape [n], numbers, datetime64 or datetime objects.
        fractions: as in `by_fraction`.

    Raises:
        UserError: there are fewer different times than parts, a time is missing, or the times are
            strings.
    """
    shares = _checked_fractions(fractions)
    times = _as_times(times)
    _moments, codes, sizes = np.unique(times, return_inverse=True, return_counts=True)
    return _split_of(_cut(sizes, shares, "different times")[codes])


def by_hash(keys: Any, fractions: Sequence[float] = (0.8, 0.1, 0.1), salt: str = "") -> Split:
    """Splits by a hash of each example's key: an example keeps its part when data are added.

    Equal keys are in the same part. The parts have the given fractions on average only, so a
    small part may be empty. Integers are hashed with SplitMix64 (Steele et al., 2014), strings
    and bytes with BLAKE2b (RFC 7693); so 7 and "7" are different keys, "a" and b"a" are equal.

    Args:
        keys: shape [n], integers, strings or bytes, such as file names or user ids.
        fractions: as in `by_fraction`. A larger training fraction keeps the examples that a
            smaller one selects.
        salt: another salt gives another split.

    Raises:
        UserError: the fractions do not sum to 1, or a key has another type.
    """
    shares = _checked_fractions(fractions)
    keys = as_vector(keys, "keys")
    if keys.dtype.kind in "iu":
        scores = splitmix64(keys.astype(np.uint64), hash_seed("by_hash", salt))
    elif keys.dtype.kind in "SUOT":
        prefix = hash_seed("by_hash", salt).to_bytes(8, "little")
        scores = hash_rows(prefix + key for key in _as_bytes(keys))
    else:
        raise UserError(f"by_hash: keys are {keys.dtype.name}; pass integers, strings or bytes.")
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
        labels: class of each example; makes the classes equally frequent in all folds
            (scikit-learn's StratifiedKFold).
        groups: group of each example; keeps each group in one fold (scikit-learn's GroupKFold,
            where the seed only breaks ties; with labels too, StratifiedGroupKFold).
        seed: an integer.

    Returns:
        k splits with train and test parts.

    Raises:
        UserError: there are fewer than k examples or groups, or a class has fewer than k examples.
    """
    if not isinstance(k, (int, np.integer)) or k < 2:
        raise UserError(f"folds: k={k!r}; expected an integer of 2 or more.")
    if length < k:
        raise UserError(f"folds: {length} examples cannot fill {k} folds; use fewer folds.")
    fold = np.empty(length, np.int32)
    if labels is None and groups is None:
        scores = splitmix64(np.arange(length, dtype=np.uint64), hash_seed("folds", seed))
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

    state = hash_seed("folds", seed) % 2**32
    rows = np.zeros([length, 1], np.int8)
    if labels is not None:
        labels, classes = factorize(labels, "labels", length)
        sizes = np.bincount(labels, minlength=len(classes))
        if sizes.min() < k:
            raise UserError(
                f"folds: {_small(sizes < k, sizes, classes)}, fewer than the {k} folds. Merge such "
                "classes, use fewer folds, or omit labels."
            )
    if groups is None:
        return model_selection.StratifiedKFold(k, shuffle=True, random_state=state).split(
            rows, labels
        )
    groups, names = factorize(groups, "groups", length)
    if len(names) < k:
        raise UserError(f"folds: {len(names)} groups cannot fill {k} folds; use fewer folds.")
    if labels is not None:
        splitter = model_selection.StratifiedGroupKFold(k, shuffle=True, random_state=state)
        return splitter.split(rows, labels, groups)
    # GroupKFold orders groups of equal size by their numbers; shuffled numbers break ties randomly.
    renamed = np.argsort(
        splitmix64(np.arange(len(names), dtype=np.uint64), hash_seed("folds", seed))
    )
    return model_selection.GroupKFold(k).split(rows, groups=renamed[groups])


def _checked_fractions(fractions: Sequence[float]) -> np.ndarray:
    """The fractions of (train, validation, test), float64, which sum to 1."""
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
            f"fractions={fractions!r} sum to {shares.sum():g}; pass numbers that sum to 1."
        )
    shares = shares / shares.sum()
    return shares if len(shares) == 3 else np.array([shares[0], 0, shares[1]])


def _filled(ends: np.ndarray, units: int, what: str) -> np.ndarray:
    """Moves the ends of parts so that each part has at least one of the consecutive units."""
    if units < len(ends):
        raise UserError(f"{units} {what} cannot fill {len(ends)} parts; use fewer parts.")
    least = np.arange(len(ends)) + 1
    for i in range(len(ends)):
        before = ends[i - 1] if i else 0
        ends[i] = min(max(ends[i], before + 1), units - len(ends) + least[i])
    return ends


def _cut(sizes: np.ndarray, shares: np.ndarray, what: str) -> np.ndarray:
    """The part of each of consecutive units, which have `sizes` examples."""
    used = np.flatnonzero(shares)
    middles = np.cumsum(sizes) - sizes / 2
    ends = np.searchsorted(middles, np.cumsum(shares[used]) * sizes.sum())
    ends = _filled(ends, len(sizes), what)
    return used[np.searchsorted(ends[:-1], np.arange(len(sizes)), side="right")]


def _class_counts(sizes: np.ndarray, few: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The number of examples of each class in each part: int64 [classes, 3].

    Fractions are rounded down; each remaining example goes to the part with the largest deficit.
    """
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
                f"by_hash: key {row} is {key!r}; pass integers, strings or bytes, all of one type."
            )
        yield key


def _as_times(times: Any) -> np.ndarray:
    pd = load("pandas", "by_time")

    array = as_vector(times, "times")
    if array.dtype.kind in "SUT" or any(isinstance(time, (str, bytes)) for time in array[:1]):
        raise UserError(
            "by_time: the times are strings, which may not sort by time; pass "
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
