"""Keras optimizers as pure functions of slices of the variables that they train."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer


def shape_only_variable(
    shape: Sequence[int], dtype: str, initializer: Any = "zeros", name: str | None = None
) -> keras.Variable:
    """A Keras variable without memory, whose values come from a keras.StatelessScope.

    Reason: Keras would allocate its memory when the outermost scope ends.
    Guard: tests/private_api/test_slices.py.
    """
    with _deferred():
        return keras.Variable(keras.initializers.get(initializer), shape, dtype, name=name)


@contextlib.contextmanager
def _deferred() -> Iterator[None]:
    """Variables that are created inside the block get no memory."""
    name = "uninitialized_variables"
    waiting = global_state.get_global_attribute(name, [], set_to_default=True)
    before = len(waiting)
    with keras.StatelessScope(initialize_variables=False):
        yield
    del waiting[before:]


def set_value(variable: keras.Variable, value: Any) -> None:
    """Sets the object that a variable without memory reads and assigns.

    Reason: `optimizer.variables` can then be saved and loaded as usual.
    Guard: tests/placement/test_owner.py.
    """
    variable._value = value


def stored_value(variable: Any) -> Any:
    """The object that stores the value of a Keras variable; other variables themselves.

    Reason: `value` is another one inside a StatelessScope or where dtypes are cast.
    Guard: tests/private_api/test_slices.py.
    """
    return variable._value if isinstance(variable, keras.Variable) else variable


def in_stateless_scope() -> bool:
    """Whether Keras reads and assigns the variables of a StatelessScope now.

    Reason: StatelessScope is public, but not which one is entered.
    Guard: tests/private_api/test_slices.py.
    """
    return keras.src.backend.common.stateless_scope.in_stateless_scope()


@contextlib.contextmanager
def values_created_by(create: Callable) -> Iterator[None]:
    """Keras variables that are created in the block store what `create` returns.

    Reason: Keras creates a tf.Variable with the complete value on every replica.
    Guard: tests/private_api/test_slices.py.

    Args:
        create: `create(variable, value, plain)`, with an initial value or a function that returns
            it. `plain()` creates what Keras would create.
    """
    kind = keras.src.backend.Variable
    initialize = kind._initialize

    def replaced(variable: Any, value: Any) -> None:
        if isinstance(value, tf.Variable):
            initialize(variable, value)
            return

        def plain() -> Any:
            initialize(variable, value)
            return variable._value

        variable._value = create(variable, value, plain)

    kind._initialize = replaced
    try:
        yield
    finally:
        kind._initialize = initialize


def shape_of(variable: Any, value: Any) -> tuple[int, ...]:
    """The shape of a Keras variable that is being created.

    Reason: `shape` needs a value, or the initializer's shape, which has no public name.
    Guard: tests/private_api/test_slices.py.

    Args:
        variable, value: as for `create` of values_created_by.
    """
    return tuple(variable._shape if callable(value) else value.shape)


def initial_value(variable: keras.Variable, shape: Sequence[int]) -> tf.Tensor:
    """The initial value of a variable without memory, in another shape.

    Reason: the initializer of a Keras variable has no public name.
    Guard: tests/placement/test_owner.py.
    """
    return variable._initializer(shape, dtype=variable.dtype)


def build_without_slots(optimizer, variables: list) -> list[list[keras.Variable]]:
    """Builds an optimizer whose slot variables have no memory.

    Reason: Keras creates complete slot variables on the devices of their weights.
    Guard: tests/private_api/test_slices.py.

    Returns:
        The slot variables of each variable, in the order in which Keras creates them, with Keras's
        paths and shapes.
    """
    inner = unwrap_optimizer(optimizer)
    slots: list[list[keras.Variable]] = [[] for _ in variables]
    indices = {id(variable): i for i, variable in enumerate(variables)}

    def add(reference_variable, name=None, initializer="zeros"):
        with _deferred():
            slot = BaseOptimizer.add_variable_from_reference(
                inner, reference_variable, name=name, initializer=initializer
            )
        slots[indices[id(reference_variable)]].append(slot)
        return slot

    inner.add_variable_from_reference = add
    try:
        optimizer.build(variables)
    finally:
        del inner.add_variable_from_reference
    return slots


def unwrap_optimizer(optimizer):
    """The optimizer inside a LossScaleOptimizer, or the optimizer itself.

    Reason: the private names of an optimizer are those of the inner one.
    Guard: tests/private_api/test_slices.py.
    """
    return optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer


def is_decayed(optimizer, variable) -> bool:
    """Whether an optimizer applies weight decay to a variable.

    Reason: names and variables can be excluded, and the exclusions have no public name.
    Guard: tests/private_api/test_optimizers.py.
    """
    inner = unwrap_optimizer(optimizer)
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return inner.weight_decay is not None and inner._use_weight_decay(value)


def is_overwritten_by_gradient(optimizer, variable) -> bool:
    """Whether Keras replaces a variable by its gradient (float8 training).

    Reason: no update rule applies to such a variable, and the flag has no public name.
    Guard: tests/placement/test_owner.py.
    """
    return unwrap_optimizer(optimizer)._overwrite_variable_with_gradient(variable)


def check_gradients(optimizer, gradients: list, variables: list) -> None:
    """Warns about variables without a gradient, and raises an error if none has one.

    Reason: Keras does this inside `apply`, which the owner placement does not call.
    Guard: tests/placement/test_owner.py.
    """
    unwrap_optimizer(optimizer)._filter_empty_gradients(gradients, variables)


def clips_gradients(optimizer) -> bool:
    """Whether an optimizer has a limit for clipping.

    Reason: as for clip_gradients, which is skipped if there is no limit.
    Guard: tests/placement/test_owner.py.
    """
    inner = unwrap_optimizer(optimizer)
    return any(
        limit and limit > 0 for limit in (inner.clipnorm, inner.global_clipnorm, inner.clipvalue)
    )


def clip_gradients(optimizer, gradients: list) -> list:
    """Clips complete gradients by an optimizer's clipnorm, global_clipnorm or clipvalue.

    Reason: Keras does this inside `apply`, which the owner placement does not call.
    Guard: tests/placement/test_owner.py.
    """
    return unwrap_optimizer(optimizer)._clip_gradients(gradients)


def moving_averages(optimizer) -> list[tuple]:
    """The variables of an optimizer with use_ema, each with its moving average.

    Reason: the averages have no public name.
    Guard: tests/equivalence/test_numbers.py.
    """
    inner = unwrap_optimizer(optimizer)
    return list(zip(inner._trainable_variables, inner._model_variables_moving_average, strict=True))


def assign_in_replica(variable, value) -> tf.Operation:
    """Assigns a value to the copy of a variable on the current replica.

    Reason: `variable.assign` reduces over replicas according to the variable's aggregation.
    Guard: tests/private_api/test_slices.py.
    """
    variable = _of_replica(variable)
    return variable.assign(tf.cast(value, variable.dtype), read_value=False)


def assign_rows_in_replica(variable, first: int, rows: tf.Tensor) -> tf.Operation:
    """Assigns some rows to the copy of a variable on the current replica.

    Reason: as for assign_in_replica. Also, `variable[a:b].assign` returns the complete value.
    Guard: tests/private_api/test_slices.py.
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


def scale_variables(optimizer: LossScaleOptimizer) -> list[keras.Variable]:
    """The variables of a LossScaleOptimizer itself: the scale, and the steps since its change.

    Reason: the public `variables` also contain those of the inner optimizer.
    Guard: tests/equivalence/test_numbers.py.
    """
    return list(optimizer._variables)


def next_scale(optimizer: LossScaleOptimizer, finite: tf.Tensor, values: list) -> list:
    """The new values of `scale_variables`, by Keras's rule.

    Reason: Keras changes them in `apply`, together with the update of the inner optimizer.
    Guard: tests/equivalence/test_numbers.py.
    """
    without_inner = object.__new__(type(optimizer))
    without_inner.__dict__.update(
        optimizer.__dict__,
        inner_optimizer=_NoOptimizer(),
        check_finite=lambda gradients: finite,
        _trainable_variables=[],
    )
    return without_inner.stateless_apply(values, [], [])[1]


class _NoOptimizer:
    variables: ClassVar[list] = []  # Keras adds it to a list

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        del optimizer_variables, grads
        return trainable_variables, []
