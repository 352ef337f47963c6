"""Optimizers that update some rows of a variable, and leave the others alone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig._private_api.slices import unwrapped


def own_copy(variable):
    """A replica's copy of a mirrored variable, in that replica; any other variable as it is.

    Reason: TensorFlow gathers rows of a mirrored variable by reading all of it first. Guard:
    test_own_copy.
    """
    if isinstance(variable, keras.Variable):
        variable = variable.value
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable._get_on_device_or_primary()
    return variable


@contextlib.contextmanager
def rows_updated_alone(optimizer, table_of: Callable[[Any], Any]) -> Iterator[None]:
    """Has `optimizer.apply` take slices of a table's rows as gradients, by its own rule.

    Reason: Keras's own rules make what they compute from slices dense (Adagrad's, the norms and
    limits of clipping, the test for infinities), and clip each shard of a table by itself. Guard:
    test_rows_updated_alone.

    Args:
        optimizer: a Keras optimizer that is built; one that trains no table, and anything else, is
            left as it is.
        table_of: tells what the shards of a table have in common, None for other variables.
    """
    if not update_rows_alone(optimizer, table_of):
        yield
        return
    try:
        yield
    finally:
        inner = unwrapped(optimizer)
        for name in ("update_step", "_clip_gradients", "_backend_apply_gradients"):
            inner.__dict__.pop(name, None)
        optimizer.__dict__.pop("check_finite", None)


def update_rows_alone(optimizer, table_of: Callable[[Any], Any]) -> bool:
    """The same from now on; returns whether the optimizer was changed.

    Reason and guard: as above, for an optimizer that lives for one trace only.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return False
    inner = unwrapped(optimizer)
    if all(table_of(variable) is None for variable in inner._trainable_variables):
        return False
    kind = type(inner)

    def update_step(gradient, variable, learning_rate):
        if isinstance(gradient, tf.IndexedSlices):
            _update_rows(inner, gradient, variable, learning_rate)
        else:
            kind.update_step(inner, gradient, variable, learning_rate)

    def apply_gradients(gradients, variables):
        gradients = clipped_as_tables(inner, gradients, [table_of(v) for v in variables])
        kind._backend_apply_gradients(inner, gradients, variables)

    inner.update_step = update_step
    inner._clip_gradients = list  # done before
    inner._backend_apply_gradients = apply_gradients
    if inner is not optimizer:
        finite = type(optimizer).check_finite
        optimizer.check_finite = lambda gradients: finite(
            optimizer, [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        )
    return True


def clipped_as_tables(optimizer, gradients: list, tables: list) -> list:
    """Gradients clipped as an optimizer asks for, with the shards of a table as one variable.

    Reason: as in rows_updated_alone. Guard: test_shards_are_clipped_as_one_table.

    Args:
        optimizer: not a LossScaleOptimizer.
        gradients: dense, or slices of distinct rows.
        tables: for each gradient, what it has in common with the other shards; None: it is whole.
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
    """An optimizer's own rule, with some rows of a variable and of its slots as the whole."""
    place = optimizer._get_variable_index(variable)
    kind, count = type(optimizer), len(optimizer._trainable_variables)
    twin = object.__new__(type(kind.__name__, (_OfRows, kind), {"_place": place}))
    for name, value in optimizer.__dict__.items():
        if _is_slots(name, value, count):
            value = list(value)
            value[place] = _Rows(own_copy(value[place]), gradient.indices)
        twin.__dict__[name] = value
    twin.__dict__.pop("update_step")
    kind.update_step(twin, gradient.values, _Rows(variable, gradient.indices), learning_rate)


def slots_of(optimizer, variables: list) -> list[dict[str, keras.Variable]]:
    """A built optimizer's slots of each variable, by the name of the list that has them.

    Reason: no public name has them. Guard: test_slots_of.
    """
    inner = unwrapped(optimizer)
    count = len(inner._trainable_variables)
    lists = {n: v for n, v in inner.__dict__.items() if _is_slots(n, v, count)}
    places = [inner._get_variable_index(variable) for variable in variables]
    return [{name: slots[place] for name, slots in lists.items()} for place in places]


def _is_slots(name: str, value: Any, count: int) -> bool:
    return (
        name not in ("_variables", "_trainable_variables")
        and isinstance(value, (list, tuple))
        and len(value) == count
        and all(isinstance(v, keras.Variable) for v in value)
    )


class _OfRows:
    """What an update rule calls of its optimizer, for variables that are `_Rows`."""

    _place: int

    def _get_variable_index(self, variable):
        del variable
        return self._place

    def assign(self, variable, value):
        variable.assign(value)

    def assign_add(self, variable, value):
        variable.assign_add(value)

    def assign_sub(self, variable, value):
        variable.assign_sub(value)


class _Rows:
    """Some rows of a variable, in the place of the whole in an update rule.

    What is added is added to the variable at once, so nothing is lost where others add at the
    same time.
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
