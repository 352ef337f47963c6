"""The part of a loss that depends on variables only: its regularization."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf


class Regularization(NamedTuple):
    """The part of the loss that depends on variables only.

    Attributes:
        loss: scalar.
        gradients: by name of the variable.
    """

    loss: tf.Tensor
    gradients: dict[str, tf.Tensor]


def find_penalty(loss: tf.Tensor, batch: Sequence[tf.Tensor]) -> tf.Tensor | None:
    """Sums the summands of a loss that do not depend on the batch; None if there are none.

    Args:
        loss: scalar.
        batch: all tensors of the batch, in the same graph.
    """
    of_batch = _Dependence(batch)
    penalties, todo = [], [loss]
    while todo:
        operation = todo.pop().op
        if operation.type in ("Identity", "Reshape"):
            todo.append(operation.inputs[0])
        elif operation.type in ("Add", "AddV2", "AddN"):
            for summand in operation.inputs:
                (todo if of_batch(summand) else penalties).append(summand)
    return tf.add_n([tf.reshape(tensor, []) for tensor in penalties]) if penalties else None


def find_regularization(
    loss: tf.Tensor, batch: Sequence[tf.Tensor], variables: Mapping[str, tf.Variable]
) -> Regularization | None:
    """Finds the regularization of a loss, with its gradients; None if there is none.

    Args:
        loss: scalar.
        batch: all tensors of the batch, in the same graph.
        variables: those whose gradients are needed, by name.
    """
    penalty = find_penalty(loss, batch)
    if penalty is None:
        return None
    found = tf.gradients(penalty, list(variables.values())) if variables else []
    pairs = zip(variables, found, strict=True)
    gradients = {key: tf.convert_to_tensor(g) for key, g in pairs if g is not None}
    return Regularization(penalty, gradients)


class _Dependence:
    """Whether tensors depend on the source tensors. Results are cached."""

    def __init__(self, sources: Sequence[tf.Tensor]):
        self._known = {tensor.name: True for tensor in sources}

    def __call__(self, tensor: tf.Tensor) -> bool:
        todo = [tensor]
        while todo:
            current = todo[-1]
            inputs = current.op.inputs
            unknown = [t for t in inputs if t.name not in self._known]
            if current.name in self._known or not unknown:
                self._known.setdefault(current.name, any(self._known[t.name] for t in inputs))
                todo.pop()
            else:
                todo += unknown
        return self._known[tensor.name]
