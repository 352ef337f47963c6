"""Keras's optimizers as pure functions of slices of the variables that they train."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer


def shape_only_variable(
    shape: Sequence[int], dtype: str, initializer: Any = "zeros", name: str | None = None
) -> keras.Variable:
    """A Keras variable that has no memory, to which a keras.StatelessScope gives values.

    Reason: Keras would give memory to it as soon as the outermost scope ends. Guard:
    test_shape_only_variables_are_never_given_memory.
    """
    with _deferred():
        return keras.Variable(keras.initializers.get(initializer), shape, dtype, name=name)


@contextlib.contextmanager
def _deferred() -> Iterator[None]:
    """Variables that are made inside stay without memory."""
    name = "uninitialized_variables"
    waiting = global_state.get_global_attribute(name, [], set_to_default=True)
    before = len(waiting)
    with keras.StatelessScope(initialize_variables=False):
        yield
    del waiting[before:]


def set_value(variable: keras.Variable, value: Any) -> None:
    """Makes `value` what a variable without memory reads and assigns.

    Reason: `optimizer.variables` then saves and loads like any other's. Guard:
    tests/placement/test_owner.py.
    """
    variable._value = value


def initial_value(variable: keras.Variable, shape: Sequence[int]) -> tf.Tensor:
    """What a variable without memory would have begun with, in another shape.

    Reason and guard: as in shape_only_variable.
    """
    return variable._initializer(shape, dtype=variable.dtype)


def built_without_slots(optimizer, variables: list) -> list[list[keras.Variable]]:
    """Builds an optimizer whose slots get no memory; all else in it does.

    Returns:
        For each variable its slots, in the order in which Keras makes them. Their paths and
        shapes are those that it would have given them.

    Reason: Keras makes slots on the devices of their variables, whole. Guard:
    test_an_optimizer_without_slots_has_the_same_variables.
    """
    inner = unwrapped(optimizer)
    slots: list[list[keras.Variable]] = [[] for _ in variables]
    place = {id(variable): i for i, variable in enumerate(variables)}

    def add(reference_variable, name=None, initializer="zeros"):
        with _deferred():
            slot = BaseOptimizer.add_variable_from_reference(
                inner, reference_variable, name=name, initializer=initializer
            )
        slots[place[id(reference_variable)]].append(slot)
        return slot

    inner.add_variable_from_reference = add
    try:
        optimizer.build(variables)
    finally:
        del inner.add_variable_from_reference
    return slots


def unwrapped(optimizer):
    """The optimizer inside of a LossScaleOptimizer, or itself."""
    return optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer


def is_decayed(optimizer, variable) -> bool:
    """Whether an optimizer's weight decay is for a variable.

    Reason: names and variables can be excluded, which no public name tells. Guard:
    test_is_decayed.
    """
    inner = unwrapped(optimizer)
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return inner.weight_decay is not None and inner._use_weight_decay(value)


def is_overwritten_by_gradient(optimizer, variable) -> bool:
    """Whether Keras takes a variable's gradient for its new value (float8 training).

    Reason: it is no update rule, so it is no elementwise one. Guard: tests/placement/test_owner.py.
    """
    return unwrapped(optimizer)._overwrite_variable_with_gradient(variable)


def check_gradients(optimizer, gradients: list, variables: list) -> None:
    """Warns of variables without a gradient, and raises an error if none has one, as Keras does.

    Reason: Keras does it inside of `apply`. Guard: tests/placement/test_owner.py.
    """
    unwrapped(optimizer)._filter_empty_gradients(gradients, variables)


def clips(optimizer) -> bool:
    """Whether `clipped` changes gradients."""
    inner = unwrapped(optimizer)
    return any(
        limit and limit > 0 for limit in (inner.clipnorm, inner.global_clipnorm, inner.clipvalue)
    )


def clipped(optimizer, gradients: list) -> list:
    """Whole gradients clipped as an optimizer's clipnorm, global_clipnorm or clipvalue asks for.

    Reason: Keras does it inside of `apply`. Guard: the cases clipnorm of tests/equivalence and
    tests/placement/test_owner.py.
    """
    return unwrapped(optimizer)._clip_gradients(gradients)


def averages(optimizer) -> list[tuple]:
    """The variables that an optimizer with use_ema averages, each with its average.

    Reason: no public name has them. Guard: the case ema of tests/equivalence.
    """
    inner = unwrapped(optimizer)
    return list(zip(inner._trainable_variables, inner._model_variables_moving_average, strict=True))


def assign_in_replica(variable, value) -> tf.Operation:
    """Assigns what is the same on all replicas, or a replica's own, without asking the others.

    Reason: `variable.assign` reduces over the replicas as the variable's aggregation says. Guard:
    test_assign_in_replica.
    """
    variable = _of_replica(variable)
    return variable.assign(tf.cast(value, variable.dtype), read_value=False)


def assign_rows_in_replica(variable, first: int, rows: tf.Tensor) -> tf.Operation:
    """Like `assign_in_replica`, of some rows, in their place.

    Reason: the same; and `variable[a:b].assign` returns the whole value. Guard:
    test_assign_rows_in_replica.
    """
    variable = _of_replica(variable)
    return tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.handle,
        begin=[first],
        end=[first + rows.shape[0]],
        strides=[1],
        value=tf.cast(rows, variable.dtype),
    )


def _of_replica(variable) -> tf.Variable:
    if isinstance(variable, keras.Variable):
        variable = variable.value
    if isinstance(variable, tf.distribute.DistributedValues):
        variable = variable._get_on_device_or_primary()
    return variable


class _Pure(TFOptimizer):
    """Between a class of optimizers and TFOptimizer: Keras's own methods, that of no backend."""

    assign = BaseOptimizer.assign
    assign_add = BaseOptimizer.assign_add
    assign_sub = BaseOptimizer.assign_sub
    _apply_weight_decay = BaseOptimizer._apply_weight_decay
    _backend_update_step = BaseOptimizer._backend_update_step
    _var_key = BaseOptimizer._var_key


class SliceRule:
    """An optimizer's own update rule for one slice, as a pure function.

    Clipping, loss scales and averages are left out, which are not the slice's alone.

    Reason: Keras's `stateless_apply` is shut for TensorFlow, because of how TFOptimizer assigns,
    and would update all variables at once. Guard: test_slice_rule_is_kerass_own.

    Args:
        optimizer: built by `built_without_slots`.
        slots: all that it returned.
        member: the place of a variable that the slice is cut from.
        size: the slice's number of elements.
        dtype: the variable's.
        decays: whether there is weight decay for it.
    """

    def __init__(
        self, optimizer, slots: list[list], *, member: int, size: int, dtype: str, decays: bool
    ):
        inner = unwrapped(optimizer)
        self._variable = shape_only_variable([size], dtype)
        own = {id(slot): shape_only_variable([size], slot.dtype) for slot in slots[member]}
        known = {id(slot) for group in slots for slot in group}
        self._slots = list(own.values())
        self.average_index = None  # among the slots
        if inner.use_ema:
            average = inner._model_variables_moving_average[member]
            self.average_index = list(own).index(id(average))
        # Inside of a LossScaleOptimizer, Keras does not list all of them (Nadam's product).
        attributes = [v for v in inner.__dict__.values() if isinstance(v, keras.Variable)]
        scalars = {id(v): v for v in [*inner.variables, *attributes] if id(v) not in known}
        self.scalars = list(scalars.values())
        kind = type(type(inner).__name__, (type(inner), _Pure), {})
        self._optimizer = object.__new__(kind)
        for name, value in inner.__dict__.items():
            if isinstance(value, (list, tuple)) and any(id(v) in known for v in value):
                value = [own[id(v)] for v in value if id(v) in own]
            self._optimizer.__dict__[name] = value
        self._optimizer.__dict__.update(
            _trainable_variables=[self._variable],
            _trainable_variables_indices={id(self._variable): 0},
            weight_decay=inner.weight_decay if decays else None,
            _exclude_from_weight_decay=set(),
            _exclude_from_weight_decay_pattern=None,
            _exclude_from_weight_decay_cache={},
            clipnorm=None,
            global_clipnorm=None,
            clipvalue=None,
            loss_scale_factor=None,
            use_ema=False,
        )

    def update(self, weights, gradient, slots: list, scalars: list) -> tuple[Any, list, list]:
        """The new weights, slots and scalars."""
        with self._scope(weights, slots, scalars) as scope:
            self._optimizer.apply([gradient], [self._variable])
        new = scope.get_current_value
        return new(self._variable), [*map(new, self._slots)], [*map(new, self.scalars)]

    def average(self, weights, slots: list, scalars: list) -> list:
        """The slots with the new average of use_ema; `scalars` are those before the update."""
        with self._scope(weights, slots, scalars) as scope:
            self._optimizer.__dict__["use_ema"] = True
            self._optimizer._update_model_variables_moving_average([self._variable])
            self._optimizer.__dict__["use_ema"] = False
        return [scope.get_current_value(slot) for slot in self._slots]

    def _scope(self, weights, slots: list, scalars: list) -> keras.StatelessScope:
        variables = [self._variable, *self._slots, *self.scalars]
        values = [weights, *slots, *scalars]
        return keras.StatelessScope(zip(variables, values, strict=True), initialize_variables=False)


def scale_variables(optimizer: LossScaleOptimizer) -> list[keras.Variable]:
    """What a LossScaleOptimizer itself has: the scale and how long it has been good."""
    return list(optimizer._variables)


def next_scale(optimizer: LossScaleOptimizer, finite: tf.Tensor, values: list) -> list:
    """The new values of `scale_variables`, by Keras's rule.

    Reason: Keras changes them in `apply`, around the inner optimizer's. Guard: the case
    float16_infinite_gradient of tests/equivalence.
    """
    alone = object.__new__(type(optimizer))
    alone.__dict__.update(
        optimizer.__dict__,
        inner_optimizer=_NoOptimizer(),
        check_finite=lambda gradients: finite,
        _trainable_variables=[],
    )
    return alone.stateless_apply(values, [], [])[1]


class _NoOptimizer:
    variables: ClassVar[list] = []  # Keras adds it to a list

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        del optimizer_variables, grads
        return trainable_variables, []
