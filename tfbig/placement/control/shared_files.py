"""A directory's files in pieces, and the pieces written as files again."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tfbig.errors import UserError

PIECE = 16 * 2**20  # bytes


def file_pieces(directory: str) -> Iterator[tuple[str, bool, np.ndarray]]:
    """Yields (a file's name, whether this is its last piece, the bytes) of all files.

    Raises:
        UserError: at once, if there is no such directory or it holds other things than files.
    """
    if not os.path.isdir(directory):
        raise UserError(f"{directory} is no directory whose files could be sent to the others.")
    names = sorted(os.listdir(directory))
    for name in names:
        if not os.path.isfile(os.path.join(directory, name)):
            raise UserError(f"{os.path.join(directory, name)} is no file; only files are sent.")
    return _pieces(directory, names)


def _pieces(directory: str, names: list[str]) -> Iterator[tuple[str, bool, np.ndarray]]:
    for name in names:
        with open(os.path.join(directory, name), "rb") as file:
            piece = file.read(PIECE)
            while True:
                following = file.read(PIECE)
                yield name, not following, np.frombuffer(piece, np.uint8)
                if not following:
                    break
                piece = following


class FileWriter:
    """Writes files beside a directory and moves them into it when all are there.

    A context; what has not been moved at its end is removed.
    """

    def __init__(self, into: str):
        self._into = os.path.abspath(into)
        self._beside: str | None = None
        self._file: BinaryIO | None = None
        self._names: list[str] = []

    def __enter__(self) -> "FileWriter":
        return self

    def write(self, name: str, last: bool, piece: np.ndarray) -> None:
        """Appends a piece to a file, the one that was begun or the next."""
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise UserError(f"a file named {name!r} came from the chief, which is no plain name.")
        if self._beside is None:
            parent = os.path.dirname(self._into)
            os.makedirs(parent, exist_ok=True)
            self._beside = tempfile.mkdtemp(prefix=f".{os.path.basename(self._into)}-", dir=parent)
        if self._file is None:
            self._file = open(os.path.join(self._beside, name), "wb")  # noqa: SIM115
            self._names.append(name)
        self._file.write(piece)
        if last:
            self._file.close()
            self._file = None

    def commit(self) -> None:
        """Moves the files to where they were wanted."""
        os.makedirs(self._into, exist_ok=True)
        for name in self._names:
            os.replace(os.path.join(self._beside, name), os.path.join(self._into, name))

    def __exit__(self, *error) -> None:
        if self._file is not None:
            self._file.close()
        if self._beside is not None:
            shutil.rmtree(self._beside)
