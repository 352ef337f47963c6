"""Observes and changes how TensorFlow 1 code builds a graph."""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import nn as keras_nn
from tensorflow.python.distribute import summary_op_util
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow.python.ops import custom_gradient, gradients_util, lookup_ops
from tensorflow.python.training import checkpoint_utils


@contextlib.contextmanager
def observed_gradients(observe: Callable[[list, list, list], None]) -> Iterator[None]:
    """Calls `observe(ys, xs, gradients)` for each symbolic gradient computed inside the block.

    Reason: tf.gradients and `compute_gradients` of all tf.compat.v1 optimizers call one private
    function. The public functions cannot be replaced, because user code imports them by name.
    Guard: tests/private_api/test_graphs.py.
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
    """Calls `observe(variable, checkpoint, tensor_name, slice)` instead of setting initializers.

    Reason: tf.compat.v1.train.init_from_checkpoint resolves names and then replaces the
    initializers of graph variables, but here the initializers have already run.
    Guard: tests/private_api/test_graphs.py.
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
    """Calls `observe()` when a Keras layer requests statistics over all replicas.

    Reason: outside a replica, Keras silently computes the statistics of one replica.
    Guard: tests/private_api/test_graphs.py.
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


_skip_summary_of_tensorflow = summary_op_util.skip_summary
_without = threading.local()  # replicas are traced in threads that take turns


def _skip_summary() -> bool:
    return getattr(_without, "summaries", False) or _skip_summary_of_tensorflow()


@contextlib.contextmanager
def without_summaries() -> Iterator[None]:
    """Leaves the operations of tf.compat.v1.summary out of what is traced inside the block.

    Reason: XLA compiles them with the step, which it cannot, and a step does not need them.
    Guard: tests/private_api/test_graphs.py.
    """
    if summary_op_util.skip_summary is not _skip_summary:
        summary_op_util.skip_summary = _skip_summary
    before, _without.summaries = getattr(_without, "summaries", False), True
    try:
        yield
    finally:
        _without.summaries = before


@contextlib.contextmanager
def tables_outside_graph(made: list) -> Iterator[None]:
    """Creates lookup tables outside the graph, already filled, and appends them to `made`.

    Reason: inside a graph, an operation that a tf.Session runs once fills a table. There is no
    session here. Outside the graph, a table is filled when it is created.
    Guard: tests/private_api/test_graphs.py.
    """

    def create(next_creator, initializer, *args, **kwargs):
        with tf.init_scope():
            made.append(next_creator(_outside(initializer), *args, **kwargs))
        return made[-1]

    with contextlib.ExitStack() as stack:
        for kind in ("StaticHashTable", "StaticHashTableV1", "HashTable"):
            stack.enter_context(ops.resource_creator_scope(kind, create))
        yield


def first_replica_copy(variable: tf.Variable) -> tf.Variable:
    """The first replica's copy of a variable, as an independent variable with shared memory.

    Reason: a copy refers to its replicated variable, and TensorFlow 1 optimizers would follow this
    reference.
    Guard: tests/private_api/test_graphs.py.
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


def temporary_variable(value: tf.Tensor) -> tf.Tensor:
    """The resource of a variable with a value, which lives as long as something may read it.

    Reason: a graph reads its variables from resources, and no public variable ends with a step.
    Guard: tests/private_api/test_graphs.py.
    """
    handle = tf.raw_ops.VarHandleOp(
        dtype=value.dtype, shape=value.shape, shared_name=context.anonymous_name()
    )
    write = tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    with tf.control_dependencies([write]):
        return tf.identity(handle)


def acts_as_resource_variable(kind: type) -> type:
    """Lets objects of a class stand for variables in the collections of a graph.

    Reason: functions with a gradient of their own, such as the all-reduce of a strategy, look for
    new variables in the collections and refuse other objects.
    Guard: tests/private_api/test_graphs.py.
    """
    setattr(kind, "_should_act_as_resource_variable", True)  # noqa: B010
    return kind


def in_custom_gradient() -> bool:
    """Whether the caller is called by a function with a gradient of its own.

    Such a function passes on gradients to its arguments and to each tf.Variable that it reads.

    Reason: TensorFlow does not tell what else it reads.
    Guard: tests/private_api/test_graphs.py.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == custom_gradient.__file__:
            return True
        frame = frame.f_back
    return False


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
