"""What recomputing the blocks of a Keras model needs: its graph, Keras's contexts, the tapes."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional
from tensorflow.python.eager import record


class Node(NamedTuple):
    """One call of an operation in a model's graph.

    Attributes:
        operation: a layer, or a keras.Operation without weights.
        inputs, outputs: keys of the tensors that it takes and gives.
        sizes: of each output, the number of elements of one example as far as it is known.
        differentiable: of each output, whether it is of a float type.
        run: `run(tensors, operation_fn)` puts the outputs into a dict of tensors by key.
        arguments: what the operation is called with, as args and keywords, with KerasTensors.
    """

    operation: Any
    inputs: list[int]
    outputs: list[int]
    sizes: list[int]
    differentiable: list[bool]
    run: Callable[[dict, Callable], None]
    arguments: tuple[tuple, dict]


def functional_graph(layer: keras.layers.Layer) -> keras.Model | None:
    """What runs a functional or a built Sequential model's graph of layers, or None: it has none.

    A model with a `call` of its own is none, though it may have a graph.

    Reason: a Sequential hides its functional model. Guard: tests/programs/test_remat.py.
    """
    plain, graph = Functional, layer
    if isinstance(layer, keras.Sequential):
        plain, graph = keras.Sequential, layer._functional
    of_its_class = getattr(type(layer), "call", None) is plain.call
    return graph if of_its_class and isinstance(graph, Functional) else None


def graph_nodes(graph: keras.Model) -> list[Node]:
    """The calls of a functional model's graph, each after those that it needs.

    Reason: Keras tells the layers of a graph, but not how their tensors go together. Guard:
    test_graph_nodes.
    """
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
    return [_node(node) for node in nodes if not node.is_input]


def _node(node) -> Node:
    def run(tensors: dict, operation_fn: Callable) -> None:
        if any(id(t) not in tensors for t in node.input_tensors):
            return  # as Keras does it: an optional input was not given
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = keras.tree.flatten(operation_fn(node.operation)(*args, **kwargs))
        tensors.update(zip([id(t) for t in node.outputs], outputs, strict=True))

    sizes = [tf.TensorShape([n or 1 for n in t.shape[1:]]).num_elements() for t in node.outputs]
    return Node(
        node.operation,
        [id(t) for t in node.input_tensors],
        [id(t) for t in node.outputs],
        sizes,
        [tf.as_dtype(t.dtype).is_floating for t in node.outputs],
        run,
        (node.arguments.args, node.arguments.kwargs),
    )


@contextlib.contextmanager
def graph_run_by(graph: keras.Model, run: Callable) -> Iterator[None]:
    """Has a functional model's graph run by `run(plain, inputs, operation_fn)` inside the block.

    `plain()` runs it as Keras would; inputs is a flat list, and what `run` returns has the
    structure of `graph.output`.

    Reason: no public call stands between what a model does with its inputs and its layers.
    Guard: tests/programs/test_remat.py.
    """
    plain = graph._run_through_graph

    def run_through_graph(inputs, operation_fn=lambda op: op, call_fn=None):
        def as_keras_does():
            return plain(inputs, operation_fn=operation_fn, call_fn=call_fn)

        if call_fn is not None:
            return as_keras_does()
        return run(as_keras_does, keras.tree.flatten(inputs), operation_fn)

    vars(graph)["_run_through_graph"] = run_through_graph
    try:
        yield
    finally:
        del vars(graph)["_run_through_graph"]


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds itself, in lists too, but not those that they hold.

    Reason: only models tell it by a public name. Guard: tests/programs/test_remat.py.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))


def layer_contexts() -> Callable:
    """What the layers that are called now are told by those around them, to be told it again.

    Returns a context manager's function, to be entered any time later: whether they train, and
    the type that weights are cast to.

    Reason: a layer's `call` alone does not know it. Guard: tests/programs/test_remat.py, with
    layers that have no argument `training`, and with mixed precision.
    """
    names = ("current_call_ctx", "autocast_scope")
    # Each layer leaves in the first of them what it was told itself.
    then = {name: copy.copy(global_state.get_global_attribute(name)) for name in names}

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        now = {name: global_state.get_global_attribute(name) for name in names}
        for name in names:
            global_state.set_global_attribute(name, copy.copy(then[name]))
        try:
            yield
        finally:
            for name in names:
                global_state.set_global_attribute(name, now[name])

    return again


def set_keras_mask(tensor, mask) -> None:
    """Attaches a mask to a tensor, as Keras's layers do it.

    Reason: as for keras_mask. Guard: tests/programs/test_remat.py.
    """
    keras.src.backend.common.masking.set_keras_mask(tensor, mask)


def is_recorded(tensor: tf.Tensor) -> bool:
    """Whether a GradientTape follows what is computed from a tensor.

    Reason: no gradient shall be computed for what is frozen. Guard: test_is_recorded.
    """
    return record.should_record_backprop([tensor])
