"""What Keras's optimizers do in `apply`, and what they were made with."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer


@contextlib.contextmanager
def gradients_already_reduced(optimizer) -> Iterator[None]:
    """Makes `optimizer.apply` skip its own all-reduce inside the block.

    Reason: Keras clips each replica's own gradient and reduces afterwards; reducing first and
    then applying clips the global gradient. Guard: test_gradients_already_reduced and the
    clipping cases of tests/equivalence.
    """
    inner = reduce_no_more(optimizer)
    try:
        yield
    finally:
        if inner is not None:
            del inner._all_reduce_sum_gradients
            del inner._overwrite_model_variables_with_average_value


def reduce_no_more(optimizer):
    """Makes `optimizer.apply` skip its own all-reduce from now on; returns the one changed.

    It leaves the averages of ema_overwrite_frequency to `put_averages_in_place` too.

    Reason and guard: as above, for an optimizer that lives for one trace only.
    """
    if optimizer is None:
        return None
    inner = _inner(optimizer)
    inner._all_reduce_sum_gradients = list
    inner._overwrite_model_variables_with_average_value = lambda variables: None
    return inner


def put_averages_in_place(optimizer) -> None:
    """After `apply`, in a replica: what ema_overwrite_frequency asks for.

    Reason: Keras does it in a conditional that crosses replicas, which MirroredStrategy cannot.
    Guard: the case ema_overwriting of tests/equivalence.
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
    """An optimizer's schedule, or a variable.

    Reason: `optimizer.learning_rate` is a schedule's present value. Guard:
    tests/programs/test_rebuilding.py.
    """
    return optimizer._learning_rate


def without_weight_decay(optimizer: keras.optimizers.Optimizer) -> tuple[bool, str | None]:
    """Whether variables were excluded from weight decay, and the pattern of names that were.

    Reason: no config tells what exclude_from_weight_decay was given. Guard:
    tests/programs/test_rebuilding.py.
    """
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    variables = getattr(optimizer, "_exclude_from_weight_decay", None)
    return bool(variables), pattern and pattern.pattern
