"""Numbers for keys: hashes that never change, and codes of groups and classes."""

import hashlib
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfbig._optional import load
from tfbig.errors import UserError


def random_of(numbers: np.ndarray, key: int) -> np.ndarray:
    """SplitMix64's uint64 for each number; different ones for different numbers."""
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def key_of(purpose: str, seed: int | str) -> int:
    """64 bits of a purpose and a seed or salt."""
    if not isinstance(seed, str):
        try:
            seed = str(operator.index(seed))
        except TypeError:
            raise UserError(f"seed={seed!r}: expected an integer.") from None
    words = f"{purpose}:{seed}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


def digests(rows: Iterable[bytes]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def one_dimensional(values: Any, what: str, length: int | None = None) -> np.ndarray:
    if isinstance(values, dict):
        raise UserError(
            f"{what} are a dict ({', '.join(map(repr, values))}); give one array [n], such as "
            f"{what}[{next(iter(values), 'name')!r}]."
        )
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = ""
        if what == "labels":
            hint = (
                "; for labels of several places or outputs give one class that stands for the "
                "example, for one-hot labels write labels.argmax(axis=1)"
            )
        raise UserError(
            f"{what} have shape {list(array.shape)}; expected [n], one for each example{hint}."
        )
    if length is not None and len(array) != length:
        raise UserError(f"there are {len(array)} {what} for {length} examples; give one for each.")
    return array


def codes_of(values: Any, what: str, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A number from 0 for each value, in order of appearance, and the different values."""
    pd = load("pandas", "this split")

    array = one_dimensional(values, what, length)
    if array.dtype.kind in "SU":
        array = array.astype(object)
    codes, different = pd.factorize(array)
    if len(codes) and codes.min() < 0:
        raise UserError(f"{what}: example {codes.argmin()} has none (NaN or None); fill it in.")
    return codes.astype(np.int64), np.asarray(different)
