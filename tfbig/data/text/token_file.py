"""A file of tokenized documents, which is written once as a stream and then memory-mapped.

The file has the tokens, the end offset of each document (int64), a JSON description, its size and
a magic number.
"""

import contextlib
import json
import os
import threading
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfbig.data.bad_records import BadRecord
from tfbig.data.text.documents import Block

_MARK = b"tfbig-tk"
_TAIL = 8 + len(_MARK)
_BATCH = 4 << 20  # characters per call of `encode`

Encode = Callable[[Sequence[str | bytes]], list[np.ndarray]]


class Tokens(NamedTuple):
    """The contents of a token file.

    Attributes:
        tokens: memory-mapped uint8, uint16 or uint32 array of shape [N].
        ends: memory-mapped int64 array: the index after the last token of each document.
        bad: the bad records, which have no tokens.
    """

    tokens: np.ndarray
    ends: np.ndarray
    bad: list[BadRecord]


class TokenWriter:
    """Appends documents to a token file.

    Args:
        file: an empty file, open for writing.
        dtype: dtype of a token.
        encode: converts texts to arrays of tokens.
        separator: the token that is written after each document.
    """

    def __init__(self, file: BinaryIO, dtype: np.dtype, encode: Encode, separator: int):
        self._file, self._dtype, self._encode = file, np.dtype(dtype), encode
        self._separator = np.array([separator], dtype)
        self._ends = array("q")
        self._count = 0
        self._waiting: list[str | bytes] = []
        self._waiting_size = 0

    def add(self, blocks: Iterator[Block]) -> None:
        """Adds a document; if reading its blocks fails, no part of it is added."""
        first = next(blocks)
        second = next(blocks, None)
        if second is None and len(first) == 1:  # small documents are encoded together
            self._waiting.append(first[0])
            self._waiting_size += len(first[0])
            if self._waiting_size >= _BATCH:
                self._flush()
            return
        self._flush()
        count = self._count
        try:
            self._write(self._encode(first))
            while second is not None:
                self._write(self._encode(second))
                second = next(blocks, None)
        except BaseException:
            self._count = count
            self._file.seek(count * self._dtype.itemsize)
            self._file.truncate()
            raise
        self._end_document()

    def close(self, key: str, bad: Sequence[BadRecord]) -> None:
        """Writes the ends of the documents and the description.

        Args:
            key: identifies the input of the tokens; see `open_tokens`.
            bad: the bad records, which have no tokens.
        """
        self._flush()
        self._file.write(b"\0" * (-self._file.tell() % 8))
        ends = self._ends.tobytes()
        self._file.write(ends)
        description = {
            "key": key,
            "dtype": self._dtype.name,
            "tokens": self._count,
            "documents": len(self._ends),
            "ends_crc": zlib.crc32(ends),
            "bad": [[record.file, record.record, record.reason] for record in bad],
        }
        text = json.dumps(description).encode()
        self._file.write(text + len(text).to_bytes(8, "little") + _MARK)

    def _flush(self) -> None:
        if self._waiting:
            for tokens in self._encode(self._waiting):
                self._write([tokens])
                self._end_document()
        self._waiting, self._waiting_size = [], 0

    def _write(self, pieces: Sequence[np.ndarray]) -> None:
        for tokens in pieces:
            self._file.write(np.ascontiguousarray(tokens, self._dtype).data)
            self._count += len(tokens)

    def _end_document(self) -> None:
        self._write([self._separator])
        self._ends.append(self._count)


def open_tokens(path: str, key: str) -> Tokens | None:
    """Maps a token file into memory.

    Args:
        path: a local file.
        key: identifies the input of the tokens; it must equal the key in the file.

    Returns:
        The tokens, or None if the file does not exist, has another key, or is damaged. The
        tokens themselves are not checked, because that would mean reading them all.
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        about = _described(data)
        return _checked(data, about) if about["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):  # absent, or damaged
        return None


def _described(data: np.ndarray) -> dict[str, Any]:
    if data[-len(_MARK) :].tobytes() != _MARK:
        raise ValueError("no mark at the end")
    size = int.from_bytes(data[-_TAIL : -len(_MARK)].tobytes(), "little")
    start = len(data) - _TAIL - size
    if start < 0:
        raise ValueError("too short")
    about = json.loads(data[start : start + size].tobytes())
    width = np.dtype(about["dtype"]).itemsize
    ends = -(-about["tokens"] * width // 8) * 8
    if ends + 8 * about["documents"] != start:
        raise ValueError("the size differs from the description")
    return {**about, "ends": ends, "start": start}


def _checked(data: np.ndarray, about: dict[str, Any]) -> Tokens:
    dtype = np.dtype(about["dtype"])
    raw_ends = data[about["ends"] : about["start"]]
    if zlib.crc32(raw_ends) != about["ends_crc"]:
        raise ValueError("the document ends are damaged")
    return Tokens(
        data[: about["tokens"] * dtype.itemsize].view(dtype),
        raw_ends.view(np.int64),
        [BadRecord(*record) for record in about["bad"]],
    )


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Opens a temporary file and renames it to `path` after a successful write.

    Another process that reads or writes the same path sees a complete file or none.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
