"""Weights that replicas divide among them, as a program sees them while it computes a batch."""

import collections
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.programs.tracing import RecordingScope


class DividedWeights:
    """Weights of which each replica has a slice, or of whose gradient it gets one.

    In `Values`, such a weight is represented by the slice of this replica, a vector. A program
    gathers the complete weight where it computes with it, and adds up the slices of its gradient
    where that is computed. All replicas trace the same calls in the same order.

    Attributes:
        gathers: whether the complete weights are gathered from slices. False: each replica has
            them, and only the gradients are divided.
        prefetched: how many blocks are gathered before the one that computes, and how many have
            gradients that are still being added up.
        compiled: whether the computation of a block is compiled with XLA.
    """

    gathers: bool = True
    prefetched: int = 0
    compiled: bool = False

    def creating(self) -> contextlib.AbstractContextManager:
        """Returns a context in which the weights of a model are created."""
        return contextlib.nullcontext()

    def stored(self, name: str, value: Any, dtype: Any) -> Any:
        """Stores a new weight in slices; only where `gathers` is true.

        Args:
            name: of the variable.
            value: the complete initial value, or a function that returns it.
            dtype: of the variable.
        """
        raise NotImplementedError

    def divides(self, variable: Any) -> bool:
        """Whether a variable of the model is divided."""
        raise NotImplementedError

    def slice_of(self, variable: Any) -> tf.Tensor:
        """This replica's slice of a variable, inside a trace."""
        raise NotImplementedError

    def assign_slice(self, variable: Any, value: tf.Tensor) -> None:
        """Sets this replica's slice of a variable, inside a trace; only where `gathers` is true."""
        raise NotImplementedError

    def gather(
        self, variables: Sequence, slices: Sequence[tf.Tensor], after: Sequence[tf.Tensor] = ()
    ) -> list[tf.Tensor]:
        """The complete values of variables; gradients do not flow back to the slices.

        Args:
            variables: that are divided.
            slices: this replica's slice of each.
            after: tensors that must be there before anything is gathered.
        """
        raise NotImplementedError

    def scatter(self, variables: Sequence, gradients: Sequence) -> list[tf.Tensor]:
        """This replica's slices of the gradients' sums over all replicas.

        Args:
            variables: that are divided.
            gradients: this replica's complete gradient of each.
        """
        raise NotImplementedError

    def whole(self, variable: Any, held: tf.Tensor) -> tf.Tensor:
        """The complete value of one variable; its gradient is a slice of the sum.

        Args:
            variable: that is divided.
            held: this replica's slice.
        """

        @tf.custom_gradient
        def gathered(held: tf.Tensor) -> Any:
            (value,) = self.gather([variable], [held])
            return value, lambda gradient: self.scatter([variable], [gradient])[0]

        return gathered(held)


def is_divisible(variable: Any) -> bool:
    """Whether replicas may divide a variable: it is trainable, also if frozen later, of floats."""
    return bool(variable.trainable) and tf.as_dtype(variable.dtype).is_floating


class DividingScope(RecordingScope):
    """A RecordingScope in which some variables have slices in place of values.

    A variable that is read is gathered then, and each time anew. A block of a model gathers its
    variables itself (`given`), and sets their values in a scope of its own.

    Args:
        values: pairs of a variable and its value or slice.
        weights: which variables have slices, and how they are gathered.
    """

    def __init__(self, values: Iterable[tuple], weights: DividedWeights):
        pairs = list(values)
        self.slices = {id(v): value for v, value in pairs if weights.divides(v)}
        super().__init__([(v, value) for v, value in pairs if id(v) not in self.slices])
        self.weights = weights
        self._graph = tf.compat.v1.get_default_graph()
        # What the latest blocks waited for, and the one that is computed now.
        latest = lambda: collections.deque(maxlen=weights.prefetched + 1)  # noqa: E731
        self._inputs, self._upstream, self._scattered = latest(), latest(), latest()

    @override
    def get_current_value(self, variable: Any) -> Any:
        value = super().get_current_value(variable)
        if value is None and id(variable) in self.slices:
            # In the graph of the whole model: replicas could not gather inside of a loop.
            with self._graph.as_default():
                value = self.weights.whole(variable, self.slices[id(variable)])
        return value

    @override
    def given(self, variable: Any) -> Any:
        return self.slices.get(id(variable), super().given(variable))

    @override
    def divided(self, variable: Any) -> DividedWeights | None:
        return self.weights if id(variable) in self.slices else None

    @override
    def gather_after(self, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        self._inputs.append(inputs)
        return self._inputs[0]

    @override
    def gather_again_after(self, upstream: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        self._upstream.append(upstream)
        return self._upstream[0]

    @override
    def pass_on_after(self, scattered: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        # A sum over replicas may go on while the next block computes.
        self._scattered.append(scattered)
        return self._scattered[0]
