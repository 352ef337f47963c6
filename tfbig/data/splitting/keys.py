"""Hashes of keys that are the same everywhere, and integer codes of groups and classes."""

import hashlib
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfbig._optional import load
from tfbig.errors import UserError


def splitmix64(numbers: np.ndarray, key: int) -> np.ndarray:
    """Hashes each uint64 number with SplitMix64; different numbers have different hashes."""
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def hash_seed(purpose: str, seed: int | str) -> int:
    """Hashes a purpose and a seed (or salt) to an integer of 64 bits."""
    if not isinstance(seed, str):
        try:
            seed = str(operator.index(seed))
        except TypeError:
            raise UserError(f"seed={seed!r}: expected an integer.") from None
    words = f"{purpose}:{seed}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


def hash_rows(rows: Iterable[bytes]) -> np.ndarray:
    """Hashes each byte string with BLAKE2b: uint64 [n]."""
    hashes = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def as_vector(values: Any, what: str, length: int | None = None) -> np.ndarray:
    """Converts one value per example to an array of shape [n]; [n, 1] becomes [n].

    Args:
        values: array or sequence.
        what: the name of the values, for error messages.
        length: the expected n; None: any.

    Raises:
        UserError: the shape or the length is wrong.
    """
    if isinstance(values, dict):
        raise UserError(
            f"{what} are a dict ({', '.join(map(repr, values))}); pass one array [n], such as "
            f"{what}[{next(iter(values), 'name')!r}]."
        )
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = ""
        if what == "labels":
            hint = (
                "; for several labels per example, or several outputs, pass one class per "
                "example; for one-hot labels, pass labels.argmax(axis=1)"
            )
        raise UserError(
            f"{what} have shape {list(array.shape)}; expected [n], one value per example{hint}."
        )
    if length is not None and len(array) != length:
        raise UserError(f"there are {len(array)} {what} for {length} examples; pass one for each.")
    return array


def factorize(values: Any, what: str, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Encodes values as integers from 0 in order of appearance; returns codes and unique values."""
    pd = load("pandas", "this split")

    array = as_vector(values, what, length)
    if array.dtype.kind in "SU":
        array = array.astype(object)
    codes, different = pd.factorize(array)
    if len(codes) and codes.min() < 0:
        raise UserError(
            f"{what}: the value of example {codes.argmin()} is missing (NaN or None); fill it in."
        )
    return codes.astype(np.int64), np.asarray(different)
