"""Variables in slices in a checkpoint: each task writes and reads what it holds.

The files have TensorFlow's own form for parts of a tensor, which every reader of checkpoints puts
together. So a checkpoint can be read on any number of replicas, and by any model_distribution.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_FILE_BYTES = 16 * 2**20  # a file's values are copied before they are written

# The first index and the length in each dimension.
Box = tuple[tuple[int, int], ...]


def write_slices(folder: str, variables: dict, key: Callable[[str], str]) -> list[str]:
    """Writes what this process holds of variables in slices.

    Args:
        folder: for the files; it is created.
        variables: name to a SlicedVariable.
        key: from a name to that of the tensor in the checkpoint.

    Returns:
        The prefixes of the files.
    """
    os.makedirs(folder, exist_ok=True)
    prefixes: list[str] = []
    waiting: list[tuple[str, str, np.ndarray]] = []

    def write() -> None:
        if waiting:
            prefixes.append(os.path.join(folder, str(len(prefixes))))
            names, specs, values = zip(*waiting, strict=True)
            tf.raw_ops.SaveV2(
                prefix=prefixes[-1],
                tensor_names=list(names),
                shape_and_slices=list(specs),
                tensors=[tf.constant(value) for value in values],
            )
            # Pages that are not on disk yet count as memory of this process.
            flush(f"{prefixes[-1]}.data-00000-of-00001")
            waiting.clear()

    for name, variable in variables.items():
        shape = tuple(variable.shape)
        pieces = zip(variable.local_ranges(), variable.local_values(), strict=True)
        for (start, stop), values in pieces:
            for box, first, last in _boxes_with_ranges(shape, start, stop):
                value = values[first - start : last - start].reshape([n for _, n in box])
                waiting.append((key(name), spec_of(shape, box), value))
        if sum(value.nbytes for _, _, value in waiting) >= _FILE_BYTES:
            write()
    write()
    return prefixes


def read_slices(prefix: str, variables: dict, key: Callable[[str], str]) -> None:
    """Reads what this process holds of variables in slices, one variable after the other.

    Args:
        prefix: of the checkpoint's tensors.
        variables, key: as for `write_slices`.
    """
    for name, variable in variables.items():
        shape, values = tuple(variable.shape), []
        for start, stop in variable.local_ranges():
            found = list(boxes(shape, start, stop))
            if not found:
                values.append(np.zeros(0, variable.dtype.as_numpy_dtype))
                continue
            pieces = tf.raw_ops.RestoreV2(
                prefix=prefix,
                tensor_names=[key(name)] * len(found),
                shape_and_slices=[spec_of(shape, box) for box in found],
                dtypes=[variable.dtype] * len(found),
            )
            values.append(np.concatenate([np.reshape(piece.numpy(), -1) for piece in pieces]))
        variable.assign_local(values)


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The fewest boxes of a tensor that have its elements start … stop, in their order."""
    if start == stop:
        return
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    first, within = divmod(start, row)
    if within or stop - start < row:
        end = min(stop, (first + 1) * row)
        for box in boxes(shape[1:], within, end - first * row):
            yield ((first, 1), *box)
        start = end
    rows = (stop - start) // row
    if rows:
        yield ((start // row, rows), *((0, n) for n in shape[1:]))
        start += rows * row
    if start < stop:
        for box in boxes(shape[1:], 0, stop - start):
            yield ((start // row, 1), *box)


def spec_of(shape: Sequence[int], box: Box) -> str:
    """A box in the words of TensorFlow's operations; "" for a whole tensor."""
    if all(length == size for size, (_, length) in zip(shape, box, strict=True)):
        return ""
    sizes = " ".join(map(str, shape))
    return f"{sizes} " + ":".join(f"{first},{length}" for first, length in box)


def flush(path: str) -> None:
    """Waits until a file or directory is on disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _boxes_with_ranges(
    shape: Sequence[int], start: int, stop: int
) -> Iterator[tuple[Box, int, int]]:
    for box in boxes(shape, start, stop):
        size = math.prod(length for _, length in box)
        yield box, start, start + size
        start += size


def is_sliced(variable: Any) -> bool:
    """Whether a variable has its value in slices."""
    return not isinstance(variable, tf.Variable)
