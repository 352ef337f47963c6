"""The protocol buffer of a SavedModel, and variables that are exported without values."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras.src.saving import saving_lib
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from tfbig._private_api.slices import shape_of, values_created_by


class _WithoutValue(UninitializedVariable):
    """A variable without memory, which is saved as its mark."""

    def __init__(self, mark: bytes, **kwargs: Any):
        super().__init__(**kwargs)
        self.mark = mark

    def _serialize_to_tensors(self) -> dict:
        return {"VARIABLE_VALUE": tf.constant(self.mark)}

    def assign(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Does nothing: a builder may load weights."""
        return self


@contextlib.contextmanager
def weights_read_from_disk() -> Iterator[None]:
    """Keras loads the weights of a `.keras` file from disk, and not from a copy in memory.

    Reason: it copies the whole file into memory if it finds enough, and has no option.
    Guard: tests/private_api/test_slices.py.
    """
    saved = saving_lib.is_memory_sufficient
    saving_lib.is_memory_sufficient = lambda model: False
    try:
        yield
    finally:
        saving_lib.is_memory_sufficient = saved


@contextlib.contextmanager
def variables_without_values(chosen: Callable[[Any], bool]) -> Iterator[list]:
    """Some weights of Keras that are created in the block get no memory, and no values.

    A SavedModel of them has their marks (`mark_of`) in place of values.

    Reason: TensorFlow has no public variable without a value, and saves all values at once.
    Guard: tests/private_api/test_slices.py.

    Args:
        chosen: whether a Keras variable is one of these.

    Yields:
        The list of the values of these Keras variables.
    """
    created: list[_WithoutValue] = []

    def create(variable: Any, value: Any, plain: Callable) -> Any:
        if not chosen(variable):
            return plain()
        dtype = tf.as_dtype(variable.dtype)
        shape = shape_of(variable, value)
        mark = f"value {len(created)} of tfbig".encode()
        created.append(_WithoutValue(mark, shape=shape, dtype=dtype, name=variable.name))
        return created[-1]

    with values_created_by(create):
        yield created


def variable_without_value(shape: Any, dtype: Any, name: str) -> tf.Variable:
    """A variable without memory, for a graph that is traced and never run.

    Reason: TensorFlow has no public variable without a value.
    Guard: tests/private_api/test_slices.py.
    """
    with tf.init_scope():
        return UninitializedVariable(shape=shape, dtype=dtype, name=name.partition(":")[0])


def mark_of(value: _WithoutValue) -> bytes:
    """What the tensors of a SavedModel have in place of this variable's value.

    Reason: as for variables_without_values.
    Guard: tests/private_api/test_slices.py.
    """
    return value.mark


def set_signature_methods(path: str, methods: dict[str, str]) -> None:
    """Sets the method names of the signatures in a `saved_model.pb` for TensorFlow Serving.

    Reason: tf.saved_model.save writes "predict" for all of them, and TensorFlow Serving then
    refuses classify and regress calls.
    Guard: tests/private_api/test_hooks.py.
    """
    with open(path, "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    for name, method in methods.items():
        model.meta_graphs[0].signature_def[name].method_name = method
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
