"""A block of a model as one operation, whose gradient recomputes the block."""

import contextlib
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.batch_position import batch_position_scope, current_position

_PLAIN = (type(None), bool, numbers.Number, str, bytes, np.ndarray, np.generic, tf.dtypes.DType)


class FlatTensors(NamedTuple):
    """The tensors and Keras masks of a nested structure.

    Attributes:
        tensors: each once.
        unflatten: builds the structure from replacements of these tensors.
    """

    tensors: list[tf.Tensor]
    unflatten: Callable[[Sequence[tf.Tensor]], Any]


class Block:
    """A part of a model whose activations are recomputed in the backward pass.

    Only its inputs are stored. The backward pass recomputes it from the same values, including
    those of random generators, and discards its updates of the model's state.

    Args:
        compute: from a nested structure to a nested structure.
        variables: all variables that it reads or changes.
        scope: has the values of all variables of the model.
        name: for messages.
    """

    def __init__(self, compute: Callable, variables: list, scope: keras.StatelessScope, name: str):
        self._compute, self._scope, self._name = compute, scope, name
        self._variables = [v for v in variables if scope.get_current_value(v) is not None]
        self._contexts, self._place = _private_api.layer_contexts(), current_position()

    def __call__(self, inputs: Any) -> tuple[Any, list[tf.Tensor]]:
        """Computes the block, and stores the new values of its variables in the scope.

        Returns:
            The outputs, and the losses that its layers added.

        Raises:
            UserError: the block depends on a trained tensor that is not among its inputs.
        """
        flat = _flatten(inputs, self._name)
        values = [self._scope.get_current_value(v) for v in self._variables]
        # Copies in the current graph, so that other captured tensors can be recognized.
        given = [tf.identity(t) for t in (*flat.tensors, *values)]
        sources = [i for i, t in enumerate(given) if _private_api.is_recorded(t)]
        found: dict[str, Any] = {}

        @tf.custom_gradient
        def block(*given):
            with self._nothing_captured(given):
                outputs, scope = self._run(flat, given)
            changed = self._changed(scope, given[len(flat.tensors) :])
            found.update(
                unflatten=outputs.unflatten, losses=len(scope.losses), changed=list(changed)
            )
            results = [*outputs.tensors, *scope.losses, *changed.values()]
            return results, lambda *upstream: self._gradients(flat, given, sources, upstream)

        results = list(block(*given))
        state = len(results) - len(found["changed"])
        for i, value in zip(found["changed"], results[state:], strict=True):
            self._scope.add_update((self._variables[i], value))
        losses = state - found["losses"]
        return found["unflatten"](results[:losses]), results[losses:state]

    def _run(self, flat: FlatTensors, given: Sequence) -> tuple[FlatTensors, keras.StatelessScope]:
        """Computes the outputs, and the scope with the losses and new values of variables."""
        scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
        scope.state_mapping.update(self._scope.state_mapping)
        count = len(flat.tensors)
        for variable, value in zip(self._variables, given[count:], strict=True):
            scope.add_update((variable, value))
        place = batch_position_scope(*self._place) if self._place else contextlib.nullcontext()
        with self._contexts(), place, scope:
            return _flatten(self._compute(flat.unflatten(given[:count])), self._name), scope

    def _changed(self, scope: keras.StatelessScope, values: Sequence) -> dict[int, tf.Tensor]:
        new = [scope.get_current_value(v) for v in self._variables]
        return {
            i: tf.identity(after)
            for i, (before, after) in enumerate(zip(values, new, strict=True))
            if after is not before
        }

    def _gradients(self, flat: FlatTensors, given, sources: list[int], upstream) -> list:
        """The gradients with respect to the sources; None for other inputs and variables."""
        zero = _zero_after(upstream)
        count = len(flat.tensors)
        # Adding a zero prevents XLA from reusing activations and random numbers of the forward
        # pass. Weights are left out, because the sum would copy them.
        again = [
            _plus(t, zero) if i < count or not t.dtype.is_floating else tf.identity(t)
            for i, t in enumerate(given)
        ]
        inputs = [again[i] for i in sources]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            outputs, scope = self._run(flat, again)
        targets = [*outputs.tensors, *scope.losses]  # the new state has no gradient
        pairs = [
            (target, factor)
            for target, factor in zip(targets, upstream, strict=False)
            if target.dtype.is_floating
        ]
        found = tape.gradient(
            [target for target, _ in pairs], inputs, output_gradients=[f for _, f in pairs]
        )
        gradients: list = [None] * len(given)
        for i, gradient in zip(sources, found, strict=True):
            gradients[i] = None if gradient is None else tf.convert_to_tensor(gradient)
        return gradients

    @contextlib.contextmanager
    def _nothing_captured(self, given: Sequence[tf.Tensor]):
        """Refuses captured tensors with a gradient, which the block would lose silently."""
        graph = given[0].graph
        before = len(graph.get_operations())
        yield
        made = graph.get_operations()[before:]
        known = {id(t) for t in given}
        known |= {id(t) for op in made if op.type != "Placeholder" for t in op.outputs}
        for tensor in (t for op in made for t in op.inputs):
            if id(tensor) not in known and _private_api.is_recorded(tensor):
                raise UserError(
                    f"remat=True, but {self._name} uses {tensor.name}, which is trained and is "
                    "neither among the arguments of its call nor its own weight; pass it "
                    "as an argument, or leave remat out."
                )


def _flatten(structure: Any, name: str) -> FlatTensors:
    leaves = tf.nest.flatten(structure, expand_composites=True)
    indices: dict[int, int] = {}  # by id, which is stable while `tensors` refers to them
    tensors: list[tf.Tensor] = []

    def index_of(leaf) -> int | None:
        if leaf is None or not tf.is_tensor(leaf):
            return None
        if id(leaf) not in indices:
            indices[id(leaf)] = len(tensors)
            tensors.append(leaf)
        return indices[id(leaf)]

    for leaf in leaves:
        if not tf.is_tensor(leaf) and not isinstance(leaf, _PLAIN):
            raise UserError(
                f"remat=True, but {name} takes or returns a {type(leaf).__name__}, in which "
                "tensors cannot be followed; use lists, tuples and dicts, or leave remat out."
            )
    found = [(index_of(leaf), index_of(_private_api.keras_mask(leaf))) for leaf in leaves]

    def unflatten(new: Sequence[tf.Tensor]) -> Any:
        for i, mask in found:
            if mask is not None:
                _private_api.set_keras_mask(new[i], new[mask])
        filled = [leaf if i is None else new[i] for leaf, (i, _) in zip(leaves, found, strict=True)]
        return tf.nest.pack_sequence_as(structure, filled, expand_composites=True)

    return FlatTensors(tensors, unflatten)


def _zero_after(upstream: Sequence) -> tf.Tensor:
    """A zero that depends on the upstream gradients, and that no compiler folds.

    Computations that depend on it run in the backward pass, and are not merged with equal ones of
    the forward pass. tf.recompute_grad does the same.
    """
    floats = [tf.convert_to_tensor(g) for g in upstream if g is not None and g.dtype.is_floating]
    firsts = [tf.cast(tf.reshape(g, [-1])[:1], tf.float32) for g in floats]
    any_of_them = tf.cast(tf.reduce_max(tf.concat(firsts, axis=0)), tf.bool)
    return tf.where(tf.equal(any_of_them, any_of_them), 0.0, float("nan"))


def _plus(tensor: tf.Tensor, zero: tf.Tensor) -> tf.Tensor:
    if tensor.dtype == tf.bool:
        return tf.logical_or(tensor, tf.cast(zero, tf.bool))
    if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_complex:
        return tensor + tf.cast(zero, tensor.dtype)
    return tf.identity(tensor)
