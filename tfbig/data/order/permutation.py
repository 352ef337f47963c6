"""Permutations of any size that are computed on demand, not stored."""

import numpy as np

_ROUNDS = 6
_ROUNDS_OF_FEW = 24  # for small domains, where a round mixes only one or two bits per half
_FEW = 64
_GOLDEN = 0x9E3779B97F4A7C15  # the step of SplitMix64
_MASK = 2**64 - 1


def permute(
    positions: np.ndarray, seed: int | None, streams: np.ndarray, length: int
) -> np.ndarray:
    """Maps positions by each stream's pseudo-random permutation of [0, length).

    A Feistel network over the bits of `length - 1` (Luby and Rackoff, 1988) is a permutation of
    a power of two. A result outside the domain is encrypted again until it falls inside ("cycle
    walking", Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Memory and time
    do not depend on `length`, and positions can be mapped in any order.

    Example: `permute(np.arange(10), seed=7, streams=np.zeros(10, np.int64), length=10)`.

    Args:
        positions: int64 [n], each in [0, length).
        seed: seed of the permutations; None: the identity.
        streams: int64 [n]; each pair of seed and stream has its own permutation. Fastest if equal
            values are adjacent.
        length: size of the domain.

    Returns:
        int64 [n], each in [0, length).
    """
    if seed is None or not len(positions) or length == 1:
        return positions
    bits = max((int(length) - 1).bit_length(), 2)
    low = bits // 2
    keys = _keys(seed, streams, _ROUNDS_OF_FEW if length <= _FEW else _ROUNDS)
    result = _encrypted(positions, keys, bits - low, low)
    outside = np.flatnonzero(result >= length)
    while len(outside):
        again = [key if key.ndim == 0 else key[outside] for key in keys]
        result[outside] = _encrypted(result[outside], again, bits - low, low)
        outside = outside[result[outside] >= length]
    return result


def _encrypted(values: np.ndarray, keys: list[np.ndarray], high: int, low: int) -> np.ndarray:
    """One pass through the Feistel network, whose halves have `high` and `low` bits."""
    left = (values >> low).astype(np.uint32)
    right = (values & ((1 << low) - 1)).astype(np.uint32)
    masks = np.uint32((1 << high) - 1), np.uint32((1 << low) - 1)
    for number, key in enumerate(keys):
        if number % 2:
            right ^= _hashed(left, key) & masks[1]
        else:
            left ^= _hashed(right, key) & masks[0]
    return (left.astype(np.int64) << low) | right


def _hashed(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Hashes to 32 bits: "lowbias32" of Wellons, "Prospecting for hash functions", 2018."""
    h = values + key
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def _keys(seed: int, streams: np.ndarray, rounds: int) -> list[np.ndarray]:
    """One uint32 key per round: a scalar, or [n] if the streams differ."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(streams)) + 1])
    lengths = np.diff(np.concatenate([starts, [len(streams)]]))
    keys = np.array([_round_keys(seed, int(s), rounds) for s in streams[starts]], np.uint32)
    if len(starts) == 1:
        return list(keys[0])
    return [np.repeat(keys[:, number], lengths) for number in range(rounds)]


def _round_keys(seed: int, stream: int, rounds: int) -> list[int]:
    """The first outputs of SplitMix64 (Steele, Lea and Flood, 2014), seeded with both numbers."""
    state = _mixed(_mixed(seed & _MASK) ^ (stream & _MASK))
    return [_mixed((state + (number + 1) * _GOLDEN) & _MASK) >> 32 for number in range(rounds)]


def _mixed(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 + _GOLDEN) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
