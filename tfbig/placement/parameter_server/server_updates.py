"""Updates of variables that are on parameter servers, by steps that know nothing of each other."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfbig.placement.parameter_server.variable_devices import tensorflow_variable
from tfbig.programs.row_updates import check_sparse_optimizer
from tfbig.programs.updates import Updates


class ServerUpdates(Updates):
    """An optimizer's slots are beside their weights, and its rule runs there, for each variable.

    So a gradient is all that a worker sends, and neither slots nor new weights travel. Keras
    counts its updates by reading and then writing; here it is one operation, so that workers
    which count at the same time count all.

    Args:
        beside: places what is made inside on the ps of a variable.
    """

    concurrent = True

    def __init__(self, beside: Callable[[tf.Variable], contextlib.AbstractContextManager]):
        self._beside = beside

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
    """Gives one object another method inside the block."""
    before = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
