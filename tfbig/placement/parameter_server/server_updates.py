"""Updates of variables on parameter servers, by steps that run independently."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.placement.parameter_server.variable_devices import tensorflow_variable
from tfbig.programs.updates import Updates, check_sparse_optimizer


class ServerUpdates(Updates):
    """Keeps an optimizer's slot variables beside their weights, and runs its rule there.

    So a worker sends gradients only; slots and new weights stay on the ps. Keras counts updates
    by a read and a write. Here the count is one operation, so that workers which count at the same
    time lose no update.

    Args:
        beside: a context that places new variables on the ps of a variable.
    """

    concurrent = True

    def __init__(self, beside: Callable[[tf.Variable], contextlib.AbstractContextManager]):
        self._beside = beside

    @override
    def build(self, optimizer: Any, variables: list) -> None:
        check_sparse_optimizer(optimizer, variables)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        make = inner.add_variable_from_reference

        def make_beside(reference_variable, *arguments, **keywords):
            with self._beside(tensorflow_variable(reference_variable)):
                return make(reference_variable, *arguments, **keywords)

        with _replaced(inner, "add_variable_from_reference", make_beside):
            super().build(optimizer, variables)
        count = inner.iterations
        count.assign_add = lambda n: count.value.assign_add(tf.cast(n, count.value.dtype))

    @override
    def apply(self, optimizer: Any, gradients: list, variables: list) -> None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        update = inner.update_step

        def update_there(gradient, variable, learning_rate):
            with tf.device(tensorflow_variable(variable).device):
                return update(gradient, variable, learning_rate)

        with _replaced(inner, "update_step", update_there):
            super().apply(optimizer, gradients, variables)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, function: Callable) -> Iterator[None]:
    """Replaces a method of one object inside the block."""
    before = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
