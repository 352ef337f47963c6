"""What a model's forward pass updates besides the variables that the model lists."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api

_ASSIGNS = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatter")


class RecordingScope(keras.StatelessScope):
    """A StatelessScope that knows which variables were updated in it.

    Attributes:
        updated: keras.Variables, by id.
    """

    def __init__(self, state_mapping: Any = None):
        super().__init__(state_mapping, collect_losses=True, initialize_variables=False)
        self.updated: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple) -> None:
        self.updated[id(update[0])] = update[0]
        super().add_update(update)


def updated_variables(
    function: Callable, run: Callable, spec: Any
) -> tuple[list[keras.Variable], list[tf.Variable]]:
    """The variables that a function updates, from a trace that is thrown away.

    Args:
        function: called with tensors of `spec`, inside a StatelessScope.
        run: as given to `Program.build`.
        spec: structure of tf.TensorSpec.

    Returns:
        Keras's variables, and TensorFlow's that were assigned directly, each once.
    """
    of_keras: dict[int, keras.Variable] = {}
    of_tensorflow: dict[int, tf.Variable] = {}

    def traced(*tensors):
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        with RecordingScope() as scope:
            function(tf.nest.pack_sequence_as(spec, tensors))
        of_keras.update(scope.updated)
        of_tensorflow.update((id(v), v) for v in assigned_variables(graph, before))
        return tf.zeros([])

    run(traced, tf.nest.flatten(spec))
    return list(of_keras.values()), list(of_tensorflow.values())


def assigned_variables(graph: Any, start: int = 0) -> Iterator[tf.Variable]:
    """TensorFlow's variables that are assigned by operations of a tf.function's graph.

    Args:
        graph: of a trace that goes on.
        start: how many of its first operations are left out.
    """
    assigned = {
        id(op.inputs[0])
        for op in graph.get_operations()[start:]
        if op.type.startswith(_ASSIGNS) and op.inputs
    }
    if not assigned:
        return
    handles = {id(outer) for outer, inner in graph.captures if id(inner) in assigned}
    for variable in graph.variables:
        if id(variable.handle) in handles or id(variable.handle) in assigned:
            yield variable


def depends_on(tensor: tf.Tensor, sources: list[tf.Tensor]) -> bool:
    """Whether a tensor is computed from any of others, in one graph."""
    ends, seen, left = {id(source) for source in sources}, set(), [tensor]
    while left:
        now = left.pop()
        if id(now) in ends:
            return True
        if id(now) not in seen:
            seen.add(id(now))
            left.extend(now.op.inputs)
    return False


def may_update_others(model: keras.Model) -> bool:
    """Whether a layer may update variables that the model does not list.

    Keras's and tfbig's own layers do not, but for stateful RNNs.
    """
    return any(
        getattr(layer, "stateful", False)
        or isinstance(layer, keras.layers.Lambda)
        or not is_own(type(layer))
        for layer in _private_api.flatten_layers(model)
    )


def own_state(model: keras.Model, updated: list[keras.Variable]) -> list[str]:
    """The paths of updated variables that layers of others than Keras and tfbig list."""
    wanted = {id(v) for v in updated if "seed_generator_state" not in v.path}
    layers = [layer for layer in _private_api.flatten_layers(model) if not is_own(type(layer))]
    inner = {id(v) for layer in layers for v in _private_api.own_variables(layer)}
    return sorted({v.path for v in updated if id(v) in wanted & inner})


def is_own(thing: Any) -> bool:
    """Whether a class or function is Keras's or tfbig's own; None is, too."""
    module = getattr(thing, "__module__", None) or ""
    return thing is None or module.split(".")[0] in ("keras", "tfbig")


def owners_of(model: keras.Model, variables: list) -> dict[int, str]:
    """By a variable's id a name for it: its layer's name and the attribute that holds it."""
    wanted, found = {id(v) for v in variables}, {}
    for layer in _private_api.flatten_layers(model):
        attributes = {k: v for k, v in vars(layer).items() if not k.startswith("_self_")}
        for name, leaf in _leaves(layer.name, attributes):
            if id(leaf) in wanted:
                found.setdefault(id(leaf), name)
    for number, variable in enumerate(variables):
        found.setdefault(id(variable), f"{getattr(variable, 'path', variable.name)}/{number}")
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What dicts, lists and tuples hold, each with a name that tells where."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from _leaves(f"{name}/{key}", inner)
