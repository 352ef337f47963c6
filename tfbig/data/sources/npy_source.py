"""Memory-mapped .npy files as a Source."""

import os
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data import files
from tfbig.data.bad_records import BadRecord, BadRecords
from tfbig.data.source import Source
from tfbig.errors import UserError


class NpySource(Source):
    """Arrays in `.npy` files, memory-mapped; an example is one row of each.

    The data are not held in memory: a read copies the requested rows from the files.

    Example:

        np.save("images.npy", images)
        np.save("labels.npy", labels)
        source = tfbig.data.NpySource(({"image": "images.npy"}, "labels.npy")).batch(64)

    Args:
        arrays: nested structure (path, tuple, dict) of paths of .npy files with the same first
            dimension. float64 becomes float32, the precision that TensorFlow trains in.

    Raises:
        BadRecords: a file is empty or truncated, is not a .npy file, or contains Python objects.
        UserError: a file does not exist or is remote, or the arrays differ in length.
    """

    def __init__(self, arrays: Any):
        paths = [_as_path(leaf) for leaf in tf.nest.flatten(arrays)]
        loaded = [_memory_mapped(path) for path in paths]
        lengths = {path: len(array) for path, array in zip(paths, loaded, strict=True)}
        if len(set(lengths.values())) != 1:
            said = ", ".join(f"{path} has {length}" for path, length in lengths.items())
            raise UserError(
                f"NpySource: expected files with the same number of rows; {said or 'none given'}."
            )
        self._arrays = tf.nest.pack_sequence_as(arrays, loaded)
        self._length = len(loaded[0])
        self.threads = min(8, os.cpu_count() or 1)  # one copies while others wait for the disk

    def __len__(self) -> int:
        return self._length

    @override
    def read(self, indices: np.ndarray) -> Any:
        # Sorted indices were no faster, from memory or from disk.
        return tf.nest.map_structure(
            lambda array: _as_read(array.take(indices, axis=0)), self._arrays
        )


def _as_path(leaf: Any) -> str:
    if not isinstance(leaf, (str, os.PathLike)):
        raise UserError(
            f"NpySource: expected the path of a .npy file, received {type(leaf).__name__}. "
            "For arrays in memory, use ArraySource."
        )
    path = os.path.expanduser(os.fspath(leaf))
    if files.is_remote(path):
        raise UserError(
            f"NpySource: {path} is remote, but only local files can be memory-mapped; copy it "
            "to this machine first."
        )
    if not os.path.isfile(path):
        raise UserError(f"NpySource: there is no file {path!r}; check the path.")
    return path


def _memory_mapped(path: str) -> np.ndarray:
    if not os.path.getsize(path):
        raise BadRecords([BadRecord(path, None, "the file is empty")])
    try:
        with open(path, "rb") as file:  # np.load treats a file without magic as a pickle
            np.lib.format.read_magic(file)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRecords(
            [BadRecord(path, None, f"it cannot be read as a .npy array: {cause}")]
        ) from error
    if array.ndim == 0:
        raise BadRecords([BadRecord(path, None, "it is a single value, without rows")])
    surplus = os.path.getsize(path) - array.offset - array.nbytes
    if surplus:  # with a damaged header, NumPy would read too few or shifted values
        raise BadRecords(
            [BadRecord(path, None, f"it is {surplus} bytes longer than its header says")]
        )
    return np.asarray(array)


def _as_read(rows: np.ndarray) -> np.ndarray:
    if rows.dtype == np.float64:
        return rows.astype(np.float32)
    return rows if rows.dtype.isnative else rows.astype(rows.dtype.newbyteorder("="))
