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
from tfbig.programs.tracing import RecordingScope

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

    Weights in slices are gathered in the forward pass, and again in the backward pass. Their
    gradients are added up over the replicas, into slices, before the gradients of the inputs are
    passed on. So the complete weights and gradients of one block exist at a time.

    Args:
        compute: from a nested structure to a nested structure.
        variables: all variables that it reads or changes.
        scope: has the values of all variables of the model.
        name: for messages.
        recompute: False: keep the activations, and the gathered weights, until the backward pass.
    """

    def __init__(
        self,
        compute: Callable,
        variables: list,
        scope: RecordingScope,
        name: str,
        *,
        recompute: bool = True,
    ):
        self._compute, self._scope, self._name = compute, scope, name
        known = [v for v in variables if scope.given(v) is not None]
        self._divided = [v for v in known if scope.divided(v)]
        self._variables = [v for v in known if not scope.divided(v)]
        self._weights = scope.divided(self._divided[0]) if self._divided else None
        self._recompute = recompute
        self._contexts, self._place = _private_api.layer_contexts(), current_position()

    def __call__(self, inputs: Any) -> tuple[Any, list[tf.Tensor]]:
        """Computes the block, and stores the new values of its variables in the scope.

        Returns:
            The outputs, and the losses that its layers added.

        Raises:
            UserError: the block depends on a trained tensor that is not among its inputs.
        """
        flat = _flatten(inputs, self._name)
        values = [self._scope.given(v) for v in (*self._variables, *self._divided)]
        # Copies in the current graph, so that other captured tensors can be recognized.
        given = [tf.identity(t) for t in (*flat.tensors, *values)]
        self._sources = [i for i, t in enumerate(given) if _private_api.is_recorded(t)]
        self._first = len(given) - len(self._divided)
        after = self._scope.gather_after(flat.tensors)

        @tf.custom_gradient
        def block(*given):
            everything = self._gathered(given, after)
            if self._recompute or self._compiled:
                results = self._function(self._results)(flat, everything)
                return results, lambda *upstream: self._again(flat, given, everything, upstream)
            tape, targets, watched, results = self._recorded(flat, everything)
            return results, lambda *upstream: self._reduced(
                tape.gradient(*_upstream(targets, upstream, watched))
            )

        results = list(block(*given))
        state = len(results) - len(self._changed)
        for i, value in zip(self._changed, results[state:], strict=True):
            self._scope.add_update((self._variables[i], value))
        losses = state - self._losses
        return self._unflatten(results[:losses]), results[losses:state]

    @property
    def _compiled(self) -> bool:
        return self._weights is not None and self._weights.compiled

    def _function(self, function: Callable) -> Callable:
        """A method of pure tensors, compiled if blocks are."""
        if not self._compiled:
            return function

        def compiled(flat: FlatTensors, *tensors: Any) -> Any:
            called = tf.function(
                lambda *tensors: function(flat, *tensors), jit_compile=True, autograph=False
            )
            return called(*tensors)

        return compiled

    def _gathered(self, given: Sequence, after: Sequence) -> list[tf.Tensor]:
        """The inputs and the complete values of all variables.

        Args:
            given: the inputs, the values of variables, and the slices of divided ones.
            after: tensors that must be there before anything is gathered.
        """
        wholes: list = []
        if self._weights is not None:
            wholes = self._weights.gather(self._divided, given[self._first :], after)
        return [*given[: self._first], *wholes]

    def _results(self, flat: FlatTensors, everything: Sequence) -> list[tf.Tensor]:
        """The outputs, the losses, and the new values of those variables that change."""
        with self._nothing_captured(everything):
            outputs, scope = self._run(flat, everything)
        return self._noted(flat, everything, outputs, scope)

    def _noted(self, flat, everything, outputs, scope) -> list[tf.Tensor]:
        """Notes the structure of the results."""
        values = everything[len(flat.tensors) : self._first]
        new = [scope.get_current_value(v) for v in self._variables]
        changed = {
            i: tf.identity(after)
            for i, (before, after) in enumerate(zip(values, new, strict=True))
            if after is not before
        }
        self._unflatten, self._losses = outputs.unflatten, len(scope.losses)
        self._changed = list(changed)
        return [*outputs.tensors, *scope.losses, *changed.values()]

    def _recorded(self, flat: FlatTensors, everything: Sequence) -> tuple:
        """Computes the block on a tape: the tape, its targets and sources, and the results."""
        watched = [everything[i] for i in self._sources]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(watched)
            with self._nothing_captured(everything):
                outputs, scope = self._run(flat, everything)
        targets = [*outputs.tensors, *scope.losses]  # the new state has no gradient
        return tape, targets, watched, self._noted(flat, everything, outputs, scope)

    def _again(self, flat: FlatTensors, given, everything: Sequence, upstream: Sequence) -> list:
        """The gradients from a second computation; None for what needs none."""
        zero = _zero_after(upstream)
        count = len(flat.tensors)
        # Adding a zero prevents XLA from reusing activations and random numbers of the forward
        # pass. Weights are left out, because the sum would copy them.
        again = [
            _plus(t, zero) if i < count or not t.dtype.is_floating else tf.identity(t)
            for i, t in enumerate(given)
        ]
        if self._recompute:
            everything = self._gathered(again, self._scope.gather_again_after([zero]))
        else:
            everything = [*again[: self._first], *everything[self._first :]]
        floats = {i: g for i, g in enumerate(upstream) if g is not None and g.dtype.is_floating}
        there: list[bool] = []

        def gradients(flat, everything, *given_upstream):
            tape, targets, watched, _ = self._recorded(flat, everything)
            known = dict(zip(floats, given_upstream, strict=True))
            all_upstream = [known.get(i) for i in range(len(upstream))]
            found = tape.gradient(*_upstream(targets, all_upstream, watched))
            there[:] = [g is not None for g in found]
            return [tf.convert_to_tensor(g) for g in found if g is not None]

        found = iter(self._function(gradients)(flat, everything, *floats.values()))
        return self._reduced([next(found) if is_there else None for is_there in there])

    def _reduced(self, found: Sequence) -> list:
        """The gradients of all given tensors, those of divided variables as slices of sums."""
        gradients: list = [None] * (self._first + len(self._divided))
        for i, gradient in zip(self._sources, found, strict=True):
            gradients[i] = None if gradient is None else tf.convert_to_tensor(gradient)
        wanted = [i for i in range(self._first, len(gradients)) if gradients[i] is not None]
        if not wanted:
            return gradients
        variables = [self._divided[i - self._first] for i in wanted]
        slices = self._weights.scatter(variables, [gradients[i] for i in wanted])
        for i, part in zip(wanted, slices, strict=True):
            gradients[i] = part
        # Then complete gradients are dropped.
        with tf.control_dependencies(self._scope.pass_on_after(slices)):
            return [None if g is None else tf.identity(g) for g in gradients]

    def _run(self, flat: FlatTensors, given: Sequence) -> tuple[FlatTensors, keras.StatelessScope]:
        """Computes the outputs, and the scope with the losses and new values of variables."""
        scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
        scope.state_mapping.update(self._scope.state_mapping)
        count, variables = len(flat.tensors), (*self._variables, *self._divided)
        for variable, value in zip(variables, given[count:], strict=True):
            scope.add_update((variable, value))
        place = batch_position_scope(*self._place) if self._place else contextlib.nullcontext()
        with self._contexts(), place, scope:
            return _flatten(self._compute(flat.unflatten(given[:count])), self._name), scope

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
                    f"remat=True or owner_full: the block {self._name} uses {tensor.name}, which "
                    "is trained and is neither among the arguments of its call nor its own "
                    "weight; pass it as an argument, or leave that option out."
                )


def _upstream(targets: list, upstream: Sequence, sources: list) -> tuple:
    """The arguments of `tape.gradient` for the targets that have a gradient."""
    pairs = [
        (target, factor)
        for target, factor in zip(targets, upstream, strict=False)
        if target.dtype.is_floating
    ]
    return [target for target, _ in pairs], sources, [factor for _, factor in pairs]


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
