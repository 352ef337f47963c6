"""Weights of a loaded model in files that are mapped into memory, not in memory itself."""

import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api

_LEAST_BYTES = 2**20
_numbers = itertools.count()


class MappedValue:
    """The value of a Keras variable in a file without a name, which is gone when this object is.

    Args:
        value: the initial value, [...].
        name: of the variable.
    """

    trainable = True

    def __init__(self, value: np.ndarray, name: str):
        descriptor, path = tempfile.mkstemp(prefix="tfbig-weight-")
        os.close(descriptor)
        self._array = np.memmap(path, value.dtype, "w+", shape=value.shape)
        os.remove(path)  # the mapping keeps it
        self._array[...] = value
        self.name, self.shape = name, tf.TensorShape(value.shape)
        self.dtype = tf.as_dtype(value.dtype)
        self._unique_id = f"{name}_{next(_numbers)}"  # by which Keras's optimizers know it

    def numpy(self) -> np.ndarray:
        """The value, not copied; it cannot be written to."""
        view = self._array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype) if copy else np.asarray(self._array, dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return tf.constant(self._array, dtype)

    def assign(self, value: Any) -> None:
        """Sets the value."""
        self._array[...] = np.asarray(value)


@contextlib.contextmanager
def weights_in_files() -> Iterator[None]:
    """Large variables of Keras that are created in the block are in files of the temporary folder.

    Only one of them is in memory at a time. They are for a model from which another one is made:
    it can be called eagerly, but not trained.
    """

    def create(variable: keras.Variable, value: Any, plain: Callable) -> Any:
        dtype = tf.as_dtype(variable.dtype)
        shape = _private_api.shape_of(variable, value)
        if not dtype.is_floating or math.prod(shape) * dtype.size < _LEAST_BYTES:
            return plain()
        value = value() if callable(value) else value
        return MappedValue(keras.ops.convert_to_numpy(value), variable.path)

    with _private_api.values_created_by(create), _private_api.weights_read_from_disk():
        yield
