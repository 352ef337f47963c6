"""What a model's forward pass updates besides the variables that the model lists."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError

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
    model: keras.Model, function: Callable, run: Callable, spec: Any
) -> tuple[list[keras.Variable], list[tf.Variable]]:
    """The variables that a function updates, from a trace that is thrown away.

    Args:
        model: whose layers have them.
        function: called with tensors of `spec`, inside a StatelessScope.
        run: as given to `Program.build`.
        spec: structure of tf.TensorSpec.

    Returns:
        Keras's variables, and TensorFlow's that were assigned directly, each once.

    Raises:
        UserError: a TensorFlow variable is assigned that no layer has as an attribute.
    """
    of_keras: dict[int, keras.Variable] = {}
    assigned: dict[int, str] = {}

    def traced(*tensors):
        graph = tf.compat.v1.get_default_graph()
        # A regularizer of Keras takes its variable's value from the scope, and needs one there.
        given = [(v, v) for v in model.variables if v.regularizer is not None]
        before = len(graph.get_operations())
        with RecordingScope(given) as scope:
            function(tf.nest.pack_sequence_as(spec, tensors))
        of_keras.update(scope.updated)
        assigned.update(assigned_handles(graph, before))
        return tf.zeros([])

    run(traced, tf.nest.flatten(spec))
    of_tensorflow = []
    for _, leaf in attributes_of(model) if assigned else ():
        handles = {id(v.handle) for v in getattr(leaf, "values", (leaf,))} if _is_raw(leaf) else ()
        if assigned.keys() & set(handles):
            of_tensorflow.append(leaf)
            for handle in handles:
                assigned.pop(handle, None)
    if assigned:
        raise UserError(
            f"the model assigns a tf.Variable in a call ({', '.join(assigned.values())}) that none "
            "of its layers has as an attribute, so it could not be kept in a checkpoint; make it "
            "with self.add_weight in build(), or assign it to an attribute of the layer, or of the "
            "keras.losses.Loss where a loss assigns it."
        )
    return list(of_keras.values()), of_tensorflow


def _is_raw(leaf: Any) -> bool:
    return isinstance(leaf, (tf.Variable, tf.distribute.DistributedValues)) and hasattr(
        leaf, "assign"
    )


def assigned_handles(graph: Any, start: int) -> dict[int, str]:
    """The ids of the handles of TensorFlow's variables that are assigned, and the operations.

    Args:
        graph: of a tf.function whose trace goes on.
        start: how many of its first operations are left out.
    """
    operations = graph.get_operations()[start:]
    assigns = [op for op in operations if op.type.startswith(_ASSIGNS) and op.inputs]
    inner = {id(op.inputs[0]): op.name for op in assigns}
    return {id(outer): inner[id(tensor)] for outer, tensor in graph.captures if id(tensor) in inner}


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


def _of_losses(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """What the attributes of compiled losses hold, and of the objects whose methods they are."""
    for number, entry in enumerate(_private_api.compiled_losses(model)):
        function = getattr(entry.loss, "fn", None)
        for holder in (entry.loss, function, getattr(function, "__self__", None)):
            for name, value in getattr(holder, "__dict__", {}).items():
                for place, leaf in enumerate(tf.nest.flatten(value)):
                    yield f"loss/{number}/{name}" + (f"/{place}" if place else ""), leaf


def owners_of(model: keras.Model, variables: list) -> dict[int, str]:
    """By a variable's id a name for it: its layer's name and the attribute that holds it."""
    wanted, found = {id(v) for v in variables}, {}
    for name, leaf in attributes_of(model):
        if id(leaf) in wanted:
            found.setdefault(id(leaf), name)
    for number, variable in enumerate(variables):
        found.setdefault(id(variable), f"{getattr(variable, 'path', variable.name)}/{number}")
    return found


def attributes_of(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """What the layers' attributes hold, each with its layer's and attribute's names."""
    yield from _of_losses(model)
    for layer in _private_api.flatten_layers(model):
        attributes = {k: v for k, v in vars(layer).items() if not k.startswith("_self_")}
        yield from leaves(layer.name, attributes)


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What dicts, lists and tuples hold, each with a name that tells where."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from leaves(f"{name}/{key}", inner)
