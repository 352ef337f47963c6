"""The graph of a Keras model, the contexts of its layers, and tapes, for recomputed blocks."""

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

    Reason: Keras's class for such calls has no public name.
    Guard: tests/private_api/test_recomputation.py.

    Attributes:
        operation: a layer, or a keras.Operation without weights.
        inputs, outputs: keys of its input and output tensors.
        sizes: the number of elements per example of each output, with 1 for unknown dimensions.
        differentiable: whether each output has a float dtype.
        run: `run(tensors, operation_fn)` adds the outputs to a dict of tensors by key.
        arguments: of the call, as args and keywords, with KerasTensors.
    """

    operation: Any
    inputs: list[int]
    outputs: list[int]
    sizes: list[int]
    differentiable: list[bool]
    run: Callable[[dict, Callable], None]
    arguments: tuple[tuple, dict]


def functional_graph(layer: keras.layers.Layer) -> keras.Model | None:
    """The functional model that runs the layers of a functional or built Sequential model.

    None for other layers, and for a model with a custom `call`.

    Reason: a Sequential model stores its functional model under a private name.
    Guard: tests/programs/test_remat.py.
    """
    plain, graph = Functional, layer
    if isinstance(layer, keras.Sequential):
        plain, graph = keras.Sequential, layer._functional
    of_its_class = getattr(type(layer), "call", None) is plain.call
    return graph if of_its_class and isinstance(graph, Functional) else None


def graph_nodes(graph: keras.Model) -> list[Node]:
    """The calls of a functional model's graph, in topological order.

    Reason: the public names list the layers of a graph, but not how their tensors are connected.
    Guard: tests/private_api/test_recomputation.py.
    """
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
    return [_node(node) for node in nodes if not node.is_input]


def _node(node) -> Node:
    def run(tensors: dict, operation_fn: Callable) -> None:
        if any(id(t) not in tensors for t in node.input_tensors):
            return  # an optional input is missing, and Keras skips the call too
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
def replaced_graph_run(graph: keras.Model, run: Callable) -> Iterator[None]:
    """Runs the graph of a functional model by `run(plain, inputs, operation_fn)` in the block.

    `plain()` runs it as Keras does. `inputs` is a flat list, and the result of `run` must have the
    structure of `graph.output`.

    Reason: no public method separates the processing of a model's inputs from its layers.
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
    """The direct sublayers of a layer, also in lists, but not the sublayers of these.

    Reason: only models have a public name for them.
    Guard: tests/programs/test_remat.py.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))


def layer_contexts() -> Callable:
    """Captures the context of a layer's call: `training`, and the dtype of autocasting.

    Reason: inner layers without an argument `training` read these from global state.
    Guard: tests/programs/test_remat.py.

    Returns:
        A function that returns a context manager, which restores the captured context.
    """
    names = ("current_call_ctx", "autocast_scope")
    # Layers modify the call context, so it is copied.
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
    """Attaches a mask to a tensor, as Keras layers do.

    Reason: as for keras_mask, masks have no public name.
    Guard: tests/programs/test_remat.py.
    """
    keras.src.backend.common.masking.set_keras_mask(tensor, mask)


def is_recorded(tensor: tf.Tensor) -> bool:
    """Whether a GradientTape records operations on a tensor.

    Reason: no gradients are computed for frozen weights, and tapes have no public query.
    Guard: tests/private_api/test_recomputation.py.
    """
    return record.should_record_backprop([tensor])
