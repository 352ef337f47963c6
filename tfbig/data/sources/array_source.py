"""Arrays in memory as a Source."""

from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.source import Source
from tfbig.errors import UserError


class ArraySource(Source):
    """Arrays in memory; an example is one row of each.

    Example:

        source = tfbig.data.ArraySource(({"image": images}, labels)).batch(64)

    Args:
        arrays: nested structure (array, tuple, dict) of arrays with the same first dimension.
            float64 becomes float32, the precision that TensorFlow trains in.

    Raises:
        UserError: the arrays differ in length, or there are no arrays.
    """

    def __init__(self, arrays: Any):
        self._arrays = tf.nest.map_structure(_as_array, arrays)
        leaves = tf.nest.flatten(self._arrays)
        lengths = sorted({len(leaf) for leaf in leaves})
        if len(lengths) != 1:
            raise UserError(
                f"ArraySource: the arrays have {lengths or 'no'} examples; pass arrays with the "
                "same first dimension."
            )
        self._length = lengths[0]

    def __len__(self) -> int:
        return self._length

    @override
    def read(self, indices: np.ndarray) -> Any:
        return tf.nest.map_structure(lambda array: array.take(indices, axis=0), self._arrays)


def _as_array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0:
        raise UserError(f"ArraySource: {value!r} is not an array with one row per example.")
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return np.ascontiguousarray(array)
