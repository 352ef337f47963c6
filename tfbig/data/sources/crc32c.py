"""CRC-32C of many byte strings at once, in NumPy.

A CRC is linear over bits, so that a string may be cut into lanes of one width, all lanes of all
strings be worked through column by column, and the results be joined: no Python loop runs over
bytes or over strings. Polynomial and masking are those of TFRecord files (RFC 3720, appendix B.4;
tensorflow/core/lib/hash/crc32c.h).
"""

import functools
from collections.abc import Sequence

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_LANE = 128  # bytes
_ONES = np.uint32(0xFFFFFFFF)


def masked_crc32c(strings: Sequence[bytes]) -> np.ndarray:
    """The checksum that a TFRecord file keeps of each of these strings.

    Args:
        strings: n byte strings of any lengths.

    Returns:
        uint32 [n].
    """
    if len(strings) == 0:
        return np.zeros([0], np.uint32)
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    lane = int(min(_LANE, max(8, -(-lengths.max() // 8) * 8)))
    lanes = np.maximum(-(-lengths // lane), 1)
    # Zeros in front do not change a CRC whose register starts at 0.
    padded = bytearray().join(
        [s.rjust(width, b"\0") for s, width in zip(strings, (lanes * lane).tolist(), strict=True)]
    )
    data = np.frombuffer(padded, np.uint8)
    ends = np.cumsum(lanes) * lane
    # The register of the standard starts with all bits set: the same as flipping 4 bytes.
    flipped = ((ends - lengths)[:, None] + np.arange(4))[np.arange(4) < lengths[:, None]]
    data[flipped] ^= 0xFF
    crc = _joined(_registers(data.reshape(-1, lane)), lanes)
    short = lengths < 4  # of the 4 bytes, those that the string does not have
    crc[short] ^= _ONES >> (8 * lengths[short]).astype(np.uint32)
    return _masked(crc)


def masked_crc32c_of_rows(rows: np.ndarray) -> np.ndarray:
    """The same for strings of one length.

    Args:
        rows: uint8 [n, length], length a multiple of 8.

    Returns:
        uint32 [n].
    """
    rows = np.array(rows)
    rows[:, :4] ^= 0xFF
    return _masked(_registers(rows))


def _masked(register: np.ndarray) -> np.ndarray:
    crc = register ^ _ONES
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def _registers(rows: np.ndarray) -> np.ndarray:
    """The CRC register after each row, from 0 on: uint8 [n, 8 k] to uint32 [n]."""
    tables = _word_tables()
    words = np.ascontiguousarray(rows.view("<u8").T)
    register = np.zeros([len(rows)], np.uint32)
    for word in words:
        pairs = (word ^ register).view("<u2").reshape(-1, 4)
        register = tables[0].take(pairs[:, 0])
        for column in (1, 2, 3):
            register ^= tables[column].take(pairs[:, column])
    return register


def _joined(registers: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """The registers of strings from those of their lanes, joined two by two."""
    string = np.repeat(np.arange(len(lanes)), lanes)
    after = np.repeat(np.cumsum(lanes), lanes) - np.arange(len(string)) - 1  # lanes that follow
    level = 0
    while len(registers) > len(lanes):
        odd = (after & 1).astype(bool)
        registers[odd] = _shifted(registers[odd], level)
        after >>= 1
        first = np.ones([len(string)], bool)
        first[1:] = (string[1:] != string[:-1]) | (after[1:] != after[:-1])
        starts = np.flatnonzero(first)
        registers = np.bitwise_xor.reduceat(registers, starts)
        string, after, level = string[starts], after[starts], level + 1
    return registers


def _shifted(registers: np.ndarray, level: int) -> np.ndarray:
    """Registers after another _LANE * 2**level zero bytes."""
    tables = _shift_tables(level)
    parts = registers.astype("<u4").view(np.uint8).reshape(-1, 4)
    return np.bitwise_xor.reduce([tables[j].take(parts[:, j]) for j in range(4)], axis=0)


@functools.cache
def _byte_tables() -> np.ndarray:
    """[8, 256]: what a byte leaves in the register with 0, 1, … 7 zero bytes after it."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    tables = [table]
    for _ in range(7):
        tables.append(table[tables[-1] & 0xFF] ^ (tables[-1] >> 8))
    return np.stack(tables)


@functools.cache
def _word_tables() -> np.ndarray:
    """[4, 65536]: the same for the four pairs of bytes of an 8-byte word."""
    pair = np.arange(65536)
    tables = _byte_tables()
    return np.stack([tables[7 - j][pair & 0xFF] ^ tables[6 - j][pair >> 8] for j in (0, 2, 4, 6)])


@functools.cache
def _shift_tables(level: int) -> np.ndarray:
    """[4, 256]: what each byte of a register becomes after _LANE * 2**level zero bytes."""
    byte = np.arange(256, dtype=np.uint32)
    tables = np.stack([byte << np.uint32(8 * j) for j in range(4)])
    if level == 0:
        one = _byte_tables()[0]
        for _ in range(_LANE):
            tables = one[tables & 0xFF] ^ (tables >> 8)
        return tables
    return _shifted(_shifted(tables.ravel(), level - 1), level - 1).reshape(4, 256)
