"""What TensorFlow 1 code does to a graph while it is built, seen from outside."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import nn as keras_nn
from tensorflow.python.framework import ops
from tensorflow.python.ops import gradients_util, lookup_ops
from tensorflow.python.training import checkpoint_utils


@contextlib.contextmanager
def observed_gradients(observe: Callable[[list, list, list], None]) -> Iterator[None]:
    """Calls `observe(ys, xs, gradients)` for each symbolic gradient taken inside the block.

    Reason: tf.gradients and the `compute_gradients` of every tf.compat.v1 optimizer end in one
    private function; the public ones are bound by name all over user code. Guard:
    test_observed_gradients.
    """
    helper = gradients_util._GradientsHelper

    def observing(ys, xs, *args, **kwargs):
        found = helper(ys, xs, *args, **kwargs)
        observe(_listed(ys), _listed(xs), _listed(found))
        return found

    gradients_util._GradientsHelper = observing
    try:
        yield
    finally:
        gradients_util._GradientsHelper = helper


@contextlib.contextmanager
def observed_checkpoint_initializers(
    observe: Callable[[Any, str, str, str], None],
) -> Iterator[None]:
    """Calls `observe(variable, checkpoint, tensor_name, slice)` in the place of an initializer.

    Reason: tf.compat.v1.train.init_from_checkpoint finds out what is to be read from where, and
    then changes the initializer of a graph's variable, which has run long ago. Guard:
    test_observed_checkpoint_initializers.
    """
    original = checkpoint_utils._set_checkpoint_initializer

    def observing(variable, ckpt_file, tensor_name, slice_spec, name=None):
        del name
        observe(variable, ckpt_file, tensor_name, slice_spec)

    checkpoint_utils._set_checkpoint_initializer = observing
    try:
        yield
    finally:
        checkpoint_utils._set_checkpoint_initializer = original


@contextlib.contextmanager
def observed_synchronization(observe: Callable[[], None]) -> Iterator[None]:
    """Calls `observe()` when a Keras layer asks for statistics over all replicas.

    Reason: where no replica is being traced, Keras computes those of one replica and says
    nothing. Guard: test_observed_synchronization.
    """
    original = keras_nn._compute_moments_sync

    def observing(*args, **kwargs):
        observe()
        return original(*args, **kwargs)

    keras_nn._compute_moments_sync = observing
    try:
        yield
    finally:
        keras_nn._compute_moments_sync = original


@contextlib.contextmanager
def tables_outside_graph(made: list) -> Iterator[None]:
    """Makes the lookup tables of a graph's code outside of it, filled; appends them to `made`.

    Reason: in a graph a table is filled by an operation that a tf.Session runs once; there is no
    session, and outside the graph a table is filled when it is made. Guard:
    test_tables_outside_graph.
    """

    def create(next_creator, initializer, *args, **kwargs):
        with tf.init_scope():
            made.append(next_creator(_outside(initializer), *args, **kwargs))
        return made[-1]

    with contextlib.ExitStack() as stack:
        for kind in ("StaticHashTable", "StaticHashTableV1", "HashTable"):
            stack.enter_context(ops.resource_creator_scope(kind, create))
        yield


def alone(variable: tf.Variable) -> tf.Variable:
    """The first replica's copy of a variable, as a variable of its own that shares its memory.

    Reason: a copy leads TensorFlow 1 optimizers back to the replicated variable, which they take
    for one that they made themselves. Guard: test_alone.
    """
    copies = getattr(variable, "values", None)
    if copies is None:
        return variable
    twin = object.__new__(type(copies[0]))
    twin.__dict__.update(copies[0].__dict__)
    twin.__dict__.pop("_distributed_container", None)
    with tf.init_scope():
        twin._handle = tf.identity(copies[0].handle)
    return twin


def _outside(initializer):
    """A table's initializer without tensors of a graph."""
    if isinstance(initializer, lookup_ops.KeyValueTensorInitializer):
        keys, values = (tf.get_static_value(t) for t in (initializer._keys, initializer._values))
        if keys is None or values is None:
            raise ValueError("the keys or values of a lookup table are computed from the batch")
        return tf.lookup.KeyValueTensorInitializer(
            keys, values, initializer.key_dtype, initializer.value_dtype
        )
    return initializer


def _listed(values) -> list:
    return list(values) if isinstance(values, (list, tuple)) else [values]
