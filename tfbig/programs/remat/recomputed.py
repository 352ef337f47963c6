"""One block of a model as one operation, whose gradient computes the block again."""

import contextlib
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.place import here, placed

_PLAIN = (type(None), bool, numbers.Number, str, bytes, np.ndarray, np.generic, tf.dtypes.DType)


class Taken(NamedTuple):
    """The tensors in a nested structure, and the masks that they carry.

    Attributes:
        tensors: each once.
        put: from as many tensors, the structure with these in their places.
    """

    tensors: list[tf.Tensor]
    put: Callable[[Sequence[tf.Tensor]], Any]


class Block:
    """A part of a model of which nothing but the inputs is kept for the backward pass.

    The backward pass computes it again from the same values, those of random generators
    included, and throws away what that does to the model's state.

    Args:
        compute: from a nested structure to a nested structure.
        variables: all that it reads or changes.
        scope: with the values of all the model's variables.
        name: for messages.
    """

    def __init__(self, compute: Callable, variables: list, scope: keras.StatelessScope, name: str):
        self._compute, self._scope, self._name = compute, scope, name
        self._variables = [v for v in variables if scope.get_current_value(v) is not None]
        self._contexts, self._place = _private_api.layer_contexts(), here()

    def __call__(self, inputs: Any) -> tuple[Any, list[tf.Tensor]]:
        """Computes the block; the new values of its variables go into the scope.

        Returns:
            The outputs, and the losses that its layers have added.

        Raises:
            UserError: a tensor that is trained reaches the block by another way than its inputs.
        """
        taken = _taken(inputs, self._name)
        values = [self._scope.get_current_value(v) for v in self._variables]
        # The present graph's own, so that what is captured besides them can be told.
        given = [tf.identity(t) for t in (*taken.tensors, *values)]
        sources = [i for i, t in enumerate(given) if _private_api.is_recorded(t)]
        found: dict[str, Any] = {}

        @tf.custom_gradient
        def block(*given):
            with self._nothing_captured(given):
                outputs, scope = self._run(taken, given)
            changed = self._changed(scope, given[len(taken.tensors) :])
            found.update(put=outputs.put, losses=len(scope.losses), changed=list(changed))
            results = [*outputs.tensors, *scope.losses, *changed.values()]
            return results, lambda *upstream: self._gradients(taken, given, sources, upstream)

        results = list(block(*given))
        state = len(results) - len(found["changed"])
        for i, value in zip(found["changed"], results[state:], strict=True):
            self._scope.add_update((self._variables[i], value))
        losses = state - found["losses"]
        return found["put"](results[:losses]), results[losses:state]

    def _run(self, taken: Taken, given: Sequence) -> tuple[Taken, keras.StatelessScope]:
        """The outputs, and the scope with the losses and the variables' new values."""
        scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
        scope.state_mapping.update(self._scope.state_mapping)
        count = len(taken.tensors)
        for variable, value in zip(self._variables, given[count:], strict=True):
            scope.add_update((variable, value))
        place = placed(*self._place) if self._place else contextlib.nullcontext()
        with self._contexts(), place, scope:
            return _taken(self._compute(taken.put(given[:count])), self._name), scope

    def _changed(self, scope: keras.StatelessScope, values: Sequence) -> dict[int, tf.Tensor]:
        new = [scope.get_current_value(v) for v in self._variables]
        return {
            i: tf.identity(after)
            for i, (before, after) in enumerate(zip(values, new, strict=True))
            if after is not before
        }

    def _gradients(self, taken: Taken, given, sources: list[int], upstream) -> list:
        """The gradients of the inputs and variables that are asked for; None for the others."""
        zero = _zero_after(upstream)
        count = len(taken.tensors)
        # Weights are not changed by adding a zero, which would copy them; random numbers of the
        # same seeds would be kept from the first time.
        again = [
            _plus(t, zero) if i < count or not t.dtype.is_floating else tf.identity(t)
            for i, t in enumerate(given)
        ]
        watched = [again[i] for i in sources]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            outputs, scope = self._run(taken, again)
        targets = [*outputs.tensors, *scope.losses]  # no gradient comes from the new state
        pairs = [
            (target, factor)
            for target, factor in zip(targets, upstream, strict=False)
            if target.dtype.is_floating
        ]
        found = tape.gradient(
            [target for target, _ in pairs], watched, output_gradients=[f for _, f in pairs]
        )
        gradients: list = [None] * len(given)
        for i, gradient in zip(sources, found, strict=True):
            gradients[i] = None if gradient is None else tf.convert_to_tensor(gradient)
        return gradients

    @contextlib.contextmanager
    def _nothing_captured(self, given: Sequence[tf.Tensor]):
        """Refuses what the gradient of the block would not see: it would be lost without a word."""
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
                    "neither among the arguments of its call nor its own weight; hand it over "
                    "as an argument, or leave remat out."
                )


def _taken(structure: Any, name: str) -> Taken:
    leaves = tf.nest.flatten(structure, expand_composites=True)
    places: dict[int, int] = {}  # by the identity of a tensor, which leaves and masks hold on to
    tensors: list[tf.Tensor] = []

    def place_of(leaf) -> int | None:
        if leaf is None or not tf.is_tensor(leaf):
            return None
        if id(leaf) not in places:
            places[id(leaf)] = len(tensors)
            tensors.append(leaf)
        return places[id(leaf)]

    for leaf in leaves:
        if not tf.is_tensor(leaf) and not isinstance(leaf, _PLAIN):
            raise UserError(
                f"remat=True, but {name} takes or returns a {type(leaf).__name__}, in which "
                "tensors cannot be followed; use lists, tuples and dicts, or leave remat out."
            )
    found = [(place_of(leaf), place_of(_private_api.keras_mask(leaf))) for leaf in leaves]

    def put(new: Sequence[tf.Tensor]) -> Any:
        for i, mask in found:
            if mask is not None:
                _private_api.set_keras_mask(new[i], new[mask])
        filled = [leaf if i is None else new[i] for leaf, (i, _) in zip(leaves, found, strict=True)]
        return tf.nest.pack_sequence_as(structure, filled, expand_composites=True)

    return Taken(tensors, put)


def _zero_after(upstream: Sequence) -> tf.Tensor:
    """A zero that is not known before the gradients are; neither XLA nor TensorFlow folds it.

    What depends on it is not computed before the backward pass comes by, nor merged with what
    was computed in the forward pass. As tf.recompute_grad does it.
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
