"""Makes Keras optimizers update some rows of a variable and leave the others unchanged."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig._private_api.slices import unwrap_optimizer


def replica_copy(variable):
    """The current replica's copy of a mirrored variable, or any other variable unchanged.

    Reason: TensorFlow reads a mirrored variable as a whole before it gathers rows of it.
    Guard: tests/private_api/test_rows.py.
    """
    if isinstance(variable, keras.Variable):
        variable = variable.value
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable._get_on_device_or_primary()
    return variable


@contextlib.contextmanager
def row_wise_updates(optimizer, table_of: Callable[[Any], Any]) -> Iterator[None]:
    """Makes `optimizer.apply` update only the rows in tf.IndexedSlices of tables.

    Reason: Keras's rules convert these to dense tensors (in Adagrad, in clipping, in the check
    for infinities), and clip each shard of a table separately.
    Guard: tests/private_api/test_rows.py.

    Args:
        optimizer: a built Keras optimizer. Another object, or an optimizer without tables, stays
            unchanged.
        table_of: returns an object that identifies the table of a shard, None for other
            variables.
    """
    if not enable_row_wise_updates(optimizer, table_of):
        yield
        return
    try:
        yield
    finally:
        inner = unwrap_optimizer(optimizer)
        for name in ("update_step", "_clip_gradients", "_backend_apply_gradients"):
            inner.__dict__.pop(name, None)
        optimizer.__dict__.pop("check_finite", None)


def enable_row_wise_updates(optimizer, table_of: Callable[[Any], Any]) -> bool:
    """Enables row-wise updates from now on, and returns whether the optimizer was changed.

    Reason: as for row_wise_updates, for an optimizer that exists in one trace only.
    Guard: tests/private_api/test_rows.py.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return False
    inner = unwrap_optimizer(optimizer)
    if all(table_of(variable) is None for variable in inner._trainable_variables):
        return False
    kind = type(inner)

    def update_step(gradient, variable, learning_rate):
        if isinstance(gradient, tf.IndexedSlices):
            _update_rows(inner, gradient, variable, learning_rate)
        else:
            kind.update_step(inner, gradient, variable, learning_rate)

    def apply_gradients(gradients, variables):
        gradients = clip_by_table(inner, gradients, [table_of(v) for v in variables])
        kind._backend_apply_gradients(inner, gradients, variables)

    inner.update_step = update_step
    inner._clip_gradients = list  # apply_gradients has clipped already
    inner._backend_apply_gradients = apply_gradients
    if inner is not optimizer:
        finite = type(optimizer).check_finite
        optimizer.check_finite = lambda gradients: finite(
            optimizer, [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        )
    return True


def clip_by_table(optimizer, gradients: list, tables: list) -> list:
    """Clips gradients by an optimizer's settings, with the shards of a table as one variable.

    Reason: as for row_wise_updates, Keras would clip each shard separately.
    Guard: tests/private_api/test_rows.py.

    Args:
        optimizer: not a LossScaleOptimizer.
        gradients: dense, or tf.IndexedSlices with distinct indices.
        tables: an object per gradient that identifies the table of its shard, or None.
    """
    groups: dict[Any, list[int]] = {}
    for i, table in enumerate(tables):
        groups.setdefault(("one", i) if table is None else id(table), []).append(i)
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    joined = [
        values[members[0]] if len(members) == 1 else tf.concat([values[i] for i in members], 0)
        for members in groups.values()
    ]
    clipped = list(gradients)
    for members, whole in zip(
        groups.values(), type(optimizer)._clip_gradients(optimizer, joined), strict=True
    ):
        sizes = [tf.shape(values[i])[0] for i in members]
        parts = [whole] if len(members) == 1 else tf.split(whole, sizes, num=len(members))
        for i, part in zip(members, parts, strict=True):
            gradient = gradients[i]
            if isinstance(gradient, tf.IndexedSlices):
                part = tf.IndexedSlices(part, gradient.indices, gradient.dense_shape)
            clipped[i] = part
    return clipped


def _update_rows(optimizer, gradient: tf.IndexedSlices, variable, learning_rate) -> None:
    """Applies the optimizer's rule to some rows of a variable and of its slot variables."""
    index = optimizer._get_variable_index(variable)
    kind, count = type(optimizer), len(optimizer._trainable_variables)
    twin = object.__new__(type(kind.__name__, (_OfRows, kind), {"_index": index}))
    for name, value in optimizer.__dict__.items():
        if _is_slots(name, value, count):
            value = list(value)
            value[index] = _Rows(replica_copy(value[index]), gradient.indices)
        twin.__dict__[name] = value
    twin.__dict__.pop("update_step")
    kind.update_step(twin, gradient.values, _Rows(variable, gradient.indices), learning_rate)


def slots_of(optimizer, variables: list) -> list[dict[str, keras.Variable]]:
    """The slot variables of each variable in a built optimizer, by the name of their list.

    Reason: slot variables have no public names.
    Guard: tests/private_api/test_rows.py.
    """
    inner = unwrap_optimizer(optimizer)
    count = len(inner._trainable_variables)
    lists = {n: v for n, v in inner.__dict__.items() if _is_slots(n, v, count)}
    indices = [inner._get_variable_index(variable) for variable in variables]
    return [{name: slots[index] for name, slots in lists.items()} for index in indices]


def _is_slots(name: str, value: Any, count: int) -> bool:
    return (
        name not in ("_variables", "_trainable_variables")
        and isinstance(value, (list, tuple))
        and len(value) == count
        and all(isinstance(v, keras.Variable) for v in value)
    )


class _OfRows:
    """The methods of an optimizer that its update rule calls, for variables that are `_Rows`."""

    _index: int

    def _get_variable_index(self, variable):
        del variable
        return self._index

    def assign(self, variable, value):
        variable.assign(value)

    def assign_add(self, variable, value):
        variable.assign_add(value)

    def assign_sub(self, variable, value):
        variable.assign_sub(value)


class _Rows:
    """Some rows of a variable, which replace the whole variable in an update rule.

    Additions are atomic, so that concurrent additions of other workers are not lost.
    """

    def __init__(self, variable: tf.Variable, indices: tf.Tensor):
        self._variable, self._indices = variable, indices
        self.dtype = variable.dtype
        self.shape = tf.TensorShape([None, *variable.shape[1:]])

    def __tf_tensor__(self, dtype=None, name=None):
        del name
        rows = tf.gather(self._variable, self._indices)
        return rows if dtype is None else tf.cast(rows, dtype)

    def assign(self, value):
        self._scatter(tf.raw_ops.ResourceScatterUpdate, value)

    def assign_add(self, value):
        self._scatter(tf.raw_ops.ResourceScatterAdd, value)

    def assign_sub(self, value):
        self._scatter(tf.raw_ops.ResourceScatterSub, value)

    def _scatter(self, operation: Callable, value: Any) -> None:
        operation(
            resource=self._variable.handle,
            indices=self._indices,
            updates=tf.cast(value, self.dtype),
        )
