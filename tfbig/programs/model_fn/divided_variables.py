"""Weights that replicas divide among them, as the layers of a model_fn see them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.divided_weights import DividedWeights
from tfbig.programs.tensor_like import TensorLike


class WholeValues:
    """The complete weights in one forward pass, each gathered once, when it is first read.

    Args:
        weights: which are divided, and how.
        slices: pairs of a variable that is trained and its slice, of which it is differentiated.
        training: whether there will be a backward pass.
    """

    def __init__(self, weights: DividedWeights, slices: list[tuple], training: bool):
        self._weights, self._training = weights, training
        self._slices = {id(variable): held for variable, held in slices}
        self._values: dict[int, tf.Tensor] = {}
        self._graph = tf.compat.v1.get_default_graph()

    def of(self, variable: Any) -> tf.Tensor:
        """The complete value; its gradient becomes a slice of the sum over all replicas.

        Raises:
            UserError: it is read where its gradient would be lost.
        """
        if self._training:
            _check_gradient(variable)
        if id(variable) not in self._values:
            held = self._slices.get(id(variable))
            # In the graph of the whole pass: replicas could not gather inside of a condition.
            with self._graph.as_default():
                if held is None:  # it is frozen
                    slices = [self._weights.slice_of(variable)]
                    (value,) = self._weights.gather([variable], slices)
                else:
                    value = self._weights.whole(variable, held)
            self._values[id(variable)] = value
        return self._values[id(variable)]


@_private_api.acts_as_resource_variable
class DividedVariable(TensorLike):
    """Stands for a divided weight in a step, and converts to its complete value.

    Args:
        variable: that is divided.
        current: returns the WholeValues of the forward pass that is being traced, or None.
    """

    def __init__(self, variable: Any, current: Callable[[], WholeValues | None]):
        _check_gradient(variable)  # where keras.remat calls a new layer
        self._variable, self._current = variable, current
        self.name, self.shape, self.dtype = variable.name, variable.shape, variable.dtype
        self.trainable = variable.trainable

    @override
    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        values = None if _private_api.in_stateless_scope() else self._current()
        value = (
            tf.convert_to_tensor(self._variable) if values is None else values.of(self._variable)
        )
        return value if dtype is None else tf.cast(value, dtype)

    def ref(self) -> "DividedVariable":
        """A key of sets, as the method of tf.Variable."""
        return self

    def deref(self) -> "DividedVariable":
        """The variable of the key."""
        return self

    def assign(self, value: Any, *args: Any, **kwargs: Any) -> None:
        """Refuses: only updates change such a weight.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"model_fn assigns to the weight {_shown(self)!r}, which replicas divide; create it "
            'with trainable=False, or write model_distribution="owner".'
        )


def _check_gradient(variable: Any) -> None:
    if _private_api.in_custom_gradient():
        raise UserError(
            f"model_fn reads the weight {_shown(variable)!r} inside of tf.recompute_grad, "
            "tf.custom_gradient or keras.remat, from which no gradient comes to weights that "
            'replicas divide; leave these out, or write model_distribution="owner".'
        )


def _shown(variable: Any) -> str:
    return variable.name.removesuffix(":0")
