"""The index of a TFRecord file: the offsets of its records, found once and saved beside it.

A TFRecord is its length (uint64), the masked CRC-32C of that (uint32), the data, and the masked
CRC-32C of the data (uint32), all little-endian (tensorflow/core/lib/io/record_writer.h).
"""

import contextlib
import functools
import json
import logging
import os
import struct
import uuid
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from tfbig.data import files

log = logging.getLogger("tfbig")

HEADER, FOOTER = 12, 4  # bytes before and after the data
_SUFFIX = ".tfbig-index.npz"
_VERSION = 1
_LENGTH = struct.Struct("<Q")


class Index(NamedTuple):
    """The records of one file.

    Attributes:
        bounds: int64 [records + 1]; record i is the bytes from bounds[i] to bounds[i + 1].
        problem: why the records after these cannot be read; "" if there are none.
        signature: signature of the file, see files.signature.
    """

    bounds: np.ndarray
    problem: str
    signature: list


def load_or_build(path: str) -> Index:
    """Loads the saved index of a file, or builds it if it is missing, outdated or damaged.

    Raises:
        OSError: the file cannot be read.
    """
    kept = files.sidecar_path(path, _SUFFIX)
    signature = files.signature(path)
    index = _load(kept, signature) if os.path.exists(kept) else None
    if index is None:
        index = build(path)
        _save(kept, index)
    return index


def build(path: str) -> Index:
    """Reads and checks the lengths of a file's records, to its end or to the first bad one."""
    signature = files.signature(path)
    size = signature[0]
    # For a remote file each request is expensive, for a local file each unused byte.
    block = (32 << 20) if files.is_remote(path) else (256 << 10)
    found, position, problem = [], 0, "" if size else "the file is empty"
    with files.open_binary(path) as file:
        while position < size and not problem:
            starts, position, problem = _walk(file, position, size, block)
            found.append(starts)
    bounds = np.concatenate([*found, np.array([position], np.int64)])
    return Index(bounds, problem, signature)


def masked_crc32c(strings: Sequence[bytes]) -> np.ndarray:
    """Returns the checksums that a TFRecord file keeps of byte strings.

    Args:
        strings: n byte strings of any lengths.

    Returns:
        uint32 [n].
    """
    return _masked(np.fromiter(map(google_crc32c.value, strings), np.uint32, len(strings)))


def masked_crc32c_of_lengths(lengths: np.ndarray) -> np.ndarray:
    """Returns the checksums of the lengths in front of the records, without a loop over records.

    Args:
        lengths: uint8 [n, 8], little-endian.

    Returns:
        uint32 [n].
    """
    tables = _length_tables()
    parts = [tables[column].take(lengths[:, column]) for column in range(8)]
    return _masked(np.bitwise_xor.reduce(parts) ^ np.uint32(google_crc32c.value(bytes(8))))


@functools.cache
def _length_tables() -> np.ndarray:
    """[8, 256]: how a byte at each position changes the checksum of eight zero bytes.

    A CRC is linear over bits, so the changes of several bytes combine by exclusive or.
    """
    crcs = [
        google_crc32c.value((byte << 8 * i).to_bytes(8, "little"))
        for i in range(8)
        for byte in range(256)
    ]
    return np.array(crcs, np.uint32).reshape(8, 256) ^ np.uint32(google_crc32c.value(bytes(8)))


def _masked(crc: np.ndarray) -> np.ndarray:
    """Masks checksums as tensorflow/core/lib/hash/crc32c.h does."""
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def _walk(file: BinaryIO, start: int, size: int, length: int) -> tuple[np.ndarray, int, str]:
    """Finds the records that begin in a block of a file.

    Returns:
        (starts, end, problem): the offsets of these records, int64 [k]; the offset of the next
        record; and why it cannot be read, or "".
    """
    file.seek(start)
    block = file.read(min(length, size - start))
    starts, position, last = [], 0, len(block) - HEADER
    unpack, add = _LENGTH.unpack_from, starts.append
    while position <= last:
        add(position)
        position += unpack(block, position)[0] + HEADER + FOOTER
    if not starts:
        left = size - start
        return np.zeros([0], np.int64), start, f"the file ends inside it: {_lost(start, left)}"
    offsets = np.array(starts, np.int64)
    headers = np.frombuffer(block, np.uint8)[offsets[:, None] + np.arange(HEADER)]
    stored = np.ascontiguousarray(headers[:, 8:]).view("<u4")[:, 0]
    wrong = masked_crc32c_of_lengths(headers[:, :8]) != stored
    if wrong.any():
        first = int(wrong.argmax())
        offsets, at = offsets[:first], start + starts[first]
        gzip = at == 0 and block[:2] == b"\x1f\x8b"
        hint = "; it looks like a gzip file: decompress it first" if gzip else ""
        lost = _lost(at, size - at)
        return offsets + start, at, f"the checksum of its length is wrong: {lost}{hint}"
    if start + position > size:
        at = start + starts[-1]
        short = f"the file ends {start + position - size} bytes too early for it"
        return offsets[:-1] + start, at, f"{short}: {_lost(at, size - at)}"
    return offsets + start, start + position, ""


def _lost(start: int, count: int) -> str:
    return f"from byte {start} on, the last {count} bytes of the file cannot be read"


def _load(kept: str, signature: list) -> Index | None:
    try:
        with np.load(kept, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            bounds = stored["bounds"]
            if about["version"] != _VERSION or about["signature"] != signature:
                return None
            lengths = np.diff(bounds)
            if bounds.dtype != np.int64 or bounds[0] != 0 or (lengths < HEADER + FOOTER).any():
                raise ValueError("its bounds are not in order")
            return Index(bounds, about["problem"], signature)
    except Exception as error:  # in any case, the index can be built again
        log.info("the index %s is damaged and is built again: %s", kept, error)
        return None


def _save(kept: str, index: Index) -> None:
    about = {"version": _VERSION, "signature": index.signature, "problem": index.problem}
    folder = os.path.dirname(kept)
    try:
        os.makedirs(folder, exist_ok=True)
        beside = os.path.join(folder, f".tfbig-index-{uuid.uuid4().hex}")
        try:
            with open(beside, "xb") as file:
                np.savez(file, about=json.dumps(about), bounds=index.bounds)
            os.replace(beside, kept)
        finally:
            with contextlib.suppress(FileNotFoundError):  # after a successful rename
                os.unlink(beside)
    except OSError as error:  # such as a full disk; the index in memory is still valid
        log.warning("the index %s cannot be saved (%s); the next run builds it again.", kept, error)
