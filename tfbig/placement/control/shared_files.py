"""Reads the files of a directory in chunks, and writes such chunks to files again."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tfbig.errors import UserError

CHUNK_BYTES = 16 * 2**20


def file_chunks(directory: str) -> Iterator[tuple[str, bool, np.ndarray]]:
    """Yields (file name, whether this is the file's last chunk, its bytes) for all files.

    Raises:
        UserError: immediately, if the directory does not exist or contains anything but files.
    """
    if not os.path.isdir(directory):
        raise UserError(
            f"{directory} is not a directory, so its files cannot be sent to the other tasks."
        )
    names = sorted(os.listdir(directory))
    for name in names:
        if not os.path.isfile(os.path.join(directory, name)):
            raise UserError(
                f"{os.path.join(directory, name)} is not a file; only files can be sent."
            )
    return _chunks(directory, names)


def _chunks(directory: str, names: list[str]) -> Iterator[tuple[str, bool, np.ndarray]]:
    for name in names:
        with open(os.path.join(directory, name), "rb") as file:
            chunk = file.read(CHUNK_BYTES)
            while True:
                following = file.read(CHUNK_BYTES)
                yield name, not following, np.frombuffer(chunk, np.uint8)
                if not following:
                    break
                chunk = following


class FileWriter:
    """Writes files to a temporary directory and moves them to their destination on `commit`.

    A context manager, which removes the temporary directory on exit.

    Args:
        destination: the directory to move the files to.
    """

    def __init__(self, destination: str):
        self._destination = os.path.abspath(destination)
        self._temporary: str | None = None
        self._file: BinaryIO | None = None
        self._names: list[str] = []

    def __enter__(self) -> "FileWriter":
        return self

    def write(self, name: str, last: bool, chunk: np.ndarray) -> None:
        """Appends a chunk to the file that is open, or opens the next file.

        Args:
            name: the file's name, without a directory.
            last: whether this is the file's last chunk, after which it is closed.
            chunk: uint8 array.
        """
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise UserError(f"the chief sent a file named {name!r}, which is not a plain name.")
        if self._temporary is None:
            parent, base = os.path.split(self._destination)
            os.makedirs(parent, exist_ok=True)
            self._temporary = tempfile.mkdtemp(prefix=f".{base}-", dir=parent)
        if self._file is None:
            self._file = open(os.path.join(self._temporary, name), "wb")  # noqa: SIM115
            self._names.append(name)
        self._file.write(chunk)  # type: ignore[call-overload]
        if last:
            self._file.close()
            self._file = None

    def commit(self) -> None:
        """Moves the files to the destination directory."""
        os.makedirs(self._destination, exist_ok=True)
        for name in self._names:
            os.replace(os.path.join(self._temporary, name), os.path.join(self._destination, name))

    def __exit__(self, *error) -> None:
        if self._file is not None:
            self._file.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary)
