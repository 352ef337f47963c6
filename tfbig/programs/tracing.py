"""Traces of a model: which variables they assign, and which layer or loss owns these."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError

_ASSIGNS = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatter")


class RecordingScope(keras.StatelessScope):
    """A StatelessScope that records which variables are updated in it.

    Attributes:
        updated: keras.Variables, by id.
    """

    def __init__(self, state_mapping: Any = None):
        super().__init__(state_mapping, collect_losses=True, initialize_variables=False)
        self.updated: dict[int, keras.Variable] = {}

    @override
    def add_update(self, update: tuple) -> None:
        self.updated[id(update[0])] = update[0]
        super().add_update(update)

    def given(self, variable: Any) -> Any:
        """What the scope has for a variable: its value, its slice on this replica, or None."""
        return super().get_current_value(variable)

    def divided(self, variable: Any) -> Any:
        """The DividedWeights that have a slice of a variable; None for other variables."""
        return None

    def gather_after(self, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """The tensors after which a block gathers its weights.

        Args:
            inputs: of the block. Blocks are computed in the order of these calls.
        """
        return inputs

    def gather_again_after(self, upstream: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """The same in the backward pass.

        Args:
            upstream: tensors that depend on the gradients of the block's outputs.
        """
        return upstream

    def pass_on_after(self, scattered: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """The tensors after which the gradients of a block's inputs are passed on.

        Args:
            scattered: the slices of the gradients of its weights.
        """
        return scattered


def updated_variables(
    model: keras.Model, function: Callable, run: Callable, spec: Any
) -> tuple[list[keras.Variable], list[tf.Variable]]:
    """Finds the variables that a function updates, by a trace that is discarded.

    Args:
        model: its layers own the variables.
        function: called with tensors of `spec`, inside a StatelessScope.
        run: the argument of `Program.build`.
        spec: structure of tf.TensorSpec.

    Returns:
        The Keras variables, and the TensorFlow variables that are assigned directly. Each occurs
        once.

    Raises:
        UserError: a TensorFlow variable is assigned that is not an attribute of any layer.
    """
    of_keras: dict[int, keras.Variable] = {}
    assigned: dict[int, str] = {}

    def traced(*tensors):
        graph = tf.compat.v1.get_default_graph()
        # A Keras regularizer reads the value of its variable from the scope.
        given = [(v, v) for v in model.variables if v.regularizer is not None]
        before = len(graph.get_operations())
        with RecordingScope(given) as scope:
            function(tf.nest.pack_sequence_as(spec, tensors))
        of_keras.update(scope.updated)
        assigned.update(assigned_handles(graph, before))
        return tf.zeros([])

    run(traced, tf.nest.flatten(spec))
    of_tensorflow = []
    for _, leaf in layer_attributes(model) if assigned else ():
        handles = {id(v.handle) for v in getattr(leaf, "values", (leaf,))} if _is_raw(leaf) else ()
        if assigned.keys() & set(handles):
            of_tensorflow.append(leaf)
            for handle in handles:
                assigned.pop(handle, None)
    if assigned:
        raise UserError(
            f"the model assigns a tf.Variable in a call ({', '.join(assigned.values())}) that none "
            "of its layers has as an attribute, so a checkpoint cannot contain it; create it "
            "with self.add_weight in build(), or assign it to an attribute of the layer, or of the "
            "keras.losses.Loss where a loss assigns it."
        )
    return list(of_keras.values()), of_tensorflow


def _is_raw(leaf: Any) -> bool:
    return isinstance(leaf, (tf.Variable, tf.distribute.DistributedValues)) and hasattr(
        leaf, "assign"
    )


def assigned_handles(graph: Any, start: int) -> dict[int, str]:
    """Finds the TensorFlow variables that a graph assigns.

    Args:
        graph: of a tf.function that is being traced.
        start: the index of the first operation to look at.

    Returns:
        By the id of a variable's handle, the name of an operation that assigns it.
    """
    operations = graph.get_operations()[start:]
    assigns = [op for op in operations if op.type.startswith(_ASSIGNS) and op.inputs]
    inner = {id(op.inputs[0]): op.name for op in assigns}
    return {id(outer): inner[id(tensor)] for outer, tensor in graph.captures if id(tensor) in inner}


def depends_on(tensor: tf.Tensor, sources: list[tf.Tensor]) -> bool:
    """Whether a tensor is computed from any of the sources, in one graph."""
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

    Layers of Keras and tfbig do not, except stateful RNNs and Lambda layers.
    """
    return any(
        getattr(layer, "stateful", False)
        or isinstance(layer, keras.layers.Lambda)
        or not is_builtin(type(layer))
        for layer in _private_api.flatten_layers(model)
    )


def custom_layer_state(model: keras.Model, updated: list[keras.Variable]) -> list[str]:
    """The paths of updated variables that belong to layers of neither Keras nor tfbig.

    States of random seed generators are left out.
    """
    wanted = {id(v) for v in updated if "seed_generator_state" not in v.path}
    layers = [layer for layer in _private_api.flatten_layers(model) if not is_builtin(type(layer))]
    inner = {id(v) for layer in layers for v in _private_api.direct_variables(layer)}
    return sorted({v.path for v in updated if id(v) in wanted & inner})


def is_builtin(thing: Any) -> bool:
    """Whether a class or function is defined in Keras or tfbig. True for None."""
    module = getattr(thing, "__module__", None) or ""
    return thing is None or module.split(".")[0] in ("keras", "tfbig")


def _of_losses(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Attributes of compiled losses, and of the objects whose bound methods are losses."""
    for number, entry in enumerate(_private_api.compiled_losses(model)):
        function = getattr(entry.loss, "fn", None)
        for holder in (entry.loss, function, getattr(function, "__self__", None)):
            for name, value in getattr(holder, "__dict__", {}).items():
                for i, leaf in enumerate(tf.nest.flatten(value)):
                    yield f"loss/{number}/{name}" + (f"/{i}" if i else ""), leaf


def owner_names(model: keras.Model, variables: list) -> dict[int, str]:
    """Names variables by their layer and attribute, by the id of the variable.

    A variable without an owner is named by its own path and its index in `variables`.
    """
    wanted, found = {id(v) for v in variables}, {}
    for name, leaf in layer_attributes(model):
        if id(leaf) in wanted:
            found.setdefault(id(leaf), name)
    for number, variable in enumerate(variables):
        found.setdefault(id(variable), f"{getattr(variable, 'path', variable.name)}/{number}")
    return found


def layer_attributes(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yields the values of all attributes of losses and layers, named "layer/attribute"."""
    yield from _of_losses(model)
    for layer in _private_api.flatten_layers(model):
        attributes = {k: v for k, v in vars(layer).items() if not k.startswith("_self_")}
        yield from leaves(layer.name, attributes)


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts, lists and tuples, each with its path under `name`."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from leaves(f"{name}/{key}", inner)


def run_in_new_thread(function: Callable[[], Any]) -> Any:
    """Calls a function in a new thread, and returns its result or raises its error.

    Graphs, strategies and scopes of TensorFlow are per thread, and so are the name scopes and the
    dtype policy of Keras. A new thread has none of them, so variables and traces can be created
    outside the caller's.
    """
    result: dict = {}

    def run():
        try:
            result["value"] = function()
        except BaseException as error:  # raised below, in the caller's thread
            result["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in result:
        raise result["error"]
    return result["value"]
