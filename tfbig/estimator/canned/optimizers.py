"""The optimizers of the canned estimators, by name, as objects or as functions that make one."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.model_fn.writes import READ_ONLY

_v1 = tf.compat.v1.train
_TF1 = {
    "Adagrad": _v1.AdagradOptimizer,
    "Adam": _v1.AdamOptimizer,
    "Ftrl": _v1.FtrlOptimizer,
    "RMSProp": _v1.RMSPropOptimizer,
    "SGD": _v1.GradientDescentOptimizer,
}
_KERAS = {
    "Adagrad": keras.optimizers.Adagrad,
    "Adam": keras.optimizers.Adam,
    "Ftrl": keras.optimizers.Ftrl,
    "RMSProp": keras.optimizers.RMSprop,
    "SGD": keras.optimizers.SGD,
}
Optimizer = Any  # of keras.optimizers or tf.compat.v1.train


def checked_optimizer(given: Any, tf1: bool) -> str | Callable[[], Optimizer]:
    """Returns the name of an optimizer, or a function that makes a new one.

    An optimizer keeps the variables that it was built with, and model_fn is called more than once.

    Args:
        given: "Adagrad", "Adam", "Ftrl", "RMSProp" or "SGD"; an optimizer of keras.optimizers or
            tf.compat.v1.train; or a function without arguments that returns one.
        tf1: whether a name is one of tf.compat.v1.train, and not of keras.optimizers.

    Raises:
        UserError: it is something else.
    """
    if isinstance(given, str):
        classes = _TF1 if tf1 else _KERAS
        if given not in classes:
            raise UserError(
                f"Unsupported optimizer name: {given}. Supported names are: {tuple(classes)}."
            )
        return given
    if isinstance(given, keras.optimizers.Optimizer):
        kind, config = type(given), given.get_config()
        return lambda: kind.from_config(config)
    if isinstance(given, _v1.Optimizer):
        return lambda: copy.deepcopy(given)
    if not callable(given):
        raise UserError(_not_one(given))
    return given


def make_optimizer(checked: Any, rate: float | None, tf1: bool) -> Optimizer:
    """Makes the optimizer of a canned estimator, a new one in each call.

    Args:
        checked: the result of `checked_optimizer`.
        rate: the learning rate for a name; None for the class's own.
        tf1: as for `checked_optimizer`.

    Raises:
        UserError: the user's function returned something else.
    """
    if isinstance(checked, str):
        make = (_TF1 if tf1 else _KERAS)[checked]
        return make() if rate is None else make(rate)
    found = checked()
    if not isinstance(found, (keras.optimizers.Optimizer, _v1.Optimizer)):
        raise UserError(_not_one(found))
    return found


def _not_one(given: Any) -> str:
    return (
        f"The given object is not an Optimizer instance. Given: {given!r}; pass an optimizer of "
        "keras.optimizers or tf.compat.v1.train, or a function that returns one."
    )


def minimize(optimizer: Optimizer, loss: tf.Tensor, scope: str) -> list[tf.Operation]:
    """Returns the operations that update the trainable variables of a variable scope.

    Args:
        optimizer: a new one.
        loss: scalar.
        scope: the beginning of the variables' names, such as "dnn/".
    """
    variables = tf.compat.v1.trainable_variables(scope)
    if isinstance(optimizer, _v1.Optimizer):
        return [optimizer.minimize(loss, var_list=variables)]
    gradients = tf.gradients(loss, variables)
    pairs: Sequence[Any] = [
        (g, v) for g, v in zip(gradients, variables, strict=True) if g is not None
    ]
    graph = tf.compat.v1.get_default_graph()
    with tf.name_scope(f"training_{scope.strip('/')}"):
        optimizer.build([v for _, v in pairs])
        before = len(graph.get_operations())
        optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
    return [op for op in graph.get_operations()[before:] if _writes(op)]


def _writes(operation: tf.Operation) -> bool:
    takes = any(tensor.dtype == tf.resource for tensor in operation.inputs)
    return takes and operation.type not in READ_ONLY
