"""The folder of an export: written under a temporary name, and renamed when it is complete."""

import os
import shutil
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError


class ExportFolder:
    """Replaces an earlier export by a new one, or leaves it as it is.

    Args:
        directory: the folder of the SavedModel.

    Attributes:
        directory: its absolute path.
        temporary: the folder to write to inside of the `with` block.

    Raises:
        UserError: the directory holds other files, or cannot be written.
    """

    def __init__(self, directory: str):
        self.directory = os.path.abspath(directory)
        if os.path.isdir(self.directory) and not _is_replaceable(self.directory):
            raise UserError(
                f"export to {self.directory!r}: it holds other files than a SavedModel; pass a new "
                "directory, or that of an earlier export to replace it."
            )
        self.temporary, self._old = (
            f"{self.directory}.{kind}-{os.getpid()}" for kind in ("tmp", "old")
        )

    def __enter__(self) -> "ExportFolder":
        shutil.rmtree(self.temporary, ignore_errors=True)  # left by a killed process
        try:
            os.makedirs(os.path.dirname(self.directory), exist_ok=True)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def put_in_place(self) -> None:
        """Renames the new export, which is complete."""
        if os.path.isdir(self.directory):
            os.rename(self.directory, self._old)
        os.rename(self.temporary, self.directory)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None and os.path.isdir(self._old) and not os.path.isdir(self.directory):
            os.rename(self._old, self.directory)
        for path in (self.temporary, self._old):
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, (OSError, tf.errors.OpError)):
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> UserError:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        return UserError(
            f"export to {self.directory!r} failed: {reason}; pass a writable directory."
        )


def _is_replaceable(directory: str) -> bool:
    names = os.listdir(directory)
    return not names or "saved_model.pb" in names
