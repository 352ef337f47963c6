"""Figures as JSON, in files that are never half there."""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfbig.errors import UserError


def plain(value: Any) -> Any:
    """For JSON: NaN and infinity, which it does not have, become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def write_json(path: str, value: Any) -> None:
    """Writes what `plain` makes of a value, beside and renamed.

    Raises:
        UserError: the file cannot be written.
    """

    def write(beside: str) -> None:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(plain(value), file, indent=1, allow_nan=False)
            file.write("\n")

    write_renamed(path, write)


def write_renamed(path: str, write: Callable[[str], None]) -> None:
    """Makes the folder, has a file written beside its place and renames it.

    Args:
        path: the file's place.
        write: writes the file to the path that it is given.

    Raises:
        UserError: the file cannot be written.
    """
    beside = f"{path}.tmp-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(
            f"{path!r} cannot be written: {error.strerror or error}; give a directory that can be "
            "written."
        ) from error
    finally:
        if os.path.exists(beside):
            os.remove(beside)
