"""The reductions, averages and settings of Keras optimizers."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer


@contextlib.contextmanager
def gradients_already_reduced(optimizer) -> Iterator[None]:
    """Makes `optimizer.apply` skip its all-reduce inside the block.

    Reason: Keras clips the gradient of each replica and reduces afterwards. If gradients are
    reduced before `apply`, the global gradient is clipped.
    Guard: tests/private_api/test_optimizers.py.
    """
    inner = disable_all_reduce(optimizer)
    try:
        yield
    finally:
        if inner is not None:
            del inner._all_reduce_sum_gradients
            del inner._overwrite_model_variables_with_average_value


def disable_all_reduce(optimizer):
    """Makes `optimizer.apply` skip its all-reduce from now on, and returns the changed optimizer.

    `apply` also skips ema_overwrite_frequency, which overwrite_with_averages implements.

    Reason: as for gradients_already_reduced, for an optimizer that exists in one trace only.
    Guard: tests/private_api/test_optimizers.py.
    """
    if optimizer is None:
        return None
    inner = _inner(optimizer)
    inner._all_reduce_sum_gradients = list
    inner._overwrite_model_variables_with_average_value = lambda variables: None
    return inner


def overwrite_with_averages(optimizer) -> None:
    """Implements ema_overwrite_frequency. Call it after `apply`, in a replica.

    Reason: Keras uses a conditional across replicas, which MirroredStrategy does not support.
    Guard: tests/private_api/test_optimizers.py.
    """
    inner = _inner(optimizer)
    if not (inner.use_ema and inner.ema_overwrite_frequency):
        return
    updates = tf.convert_to_tensor(inner.iterations)
    due = (updates > 0) & (updates % inner.ema_overwrite_frequency == 0)
    averages = inner._model_variables_moving_average
    for variable, average in zip(inner._trainable_variables, averages, strict=True):
        if average is not None:
            constraint = variable.constraint or tf.identity
            variable.assign(tf.where(due, constraint(average), variable))


def _inner(optimizer):
    return optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer


def learning_rate(optimizer: keras.optimizers.Optimizer):
    """The learning rate schedule of an optimizer, or its learning rate variable.

    Reason: the public `optimizer.learning_rate` is the current value of a schedule.
    Guard: tests/programs/test_rebuilding.py.
    """
    return optimizer._learning_rate


def weight_decay_exclusions(optimizer: keras.optimizers.Optimizer) -> tuple[bool, str | None]:
    """Whether variables are excluded from weight decay, and the pattern of excluded names.

    Reason: the config does not contain the arguments of exclude_from_weight_decay.
    Guard: tests/programs/test_rebuilding.py.
    """
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    variables = getattr(optimizer, "_exclude_from_weight_decay", None)
    return bool(variables), pattern and pattern.pattern
