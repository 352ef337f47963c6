"""A traced TensorFlow function as a Keras layer, with its variables as the layer's weights."""

import base64
import contextlib
import contextvars
import hashlib
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError

# Operations that access things outside of the graph: files, processes, Python functions.
_REACHING_OUT = (
    "PyFunc",
    "EagerPyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "Reader",
    "DebugIdentity",
    "DumpIdentity",
    "SummaryFileWriter",
    "Rpc",
    "DataServiceDataset",
)
_MAX_GRAPH_BYTES = 1 << 30
_trusting = contextvars.ContextVar("trusting", default=False)
_trusted: set[str] = set()


class CannotBeLayer(Exception):
    """The graph of a function needs more than tensors and variables; the message says what."""


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Allows layers from graphs that access files and Python functions in the block."""
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def refused_operations(operations) -> list[str]:
    """The names of operations that safe mode does not allow, sorted."""
    return sorted({op for op in operations if any(part in op for part in _REACHING_OUT)})


@keras.saving.register_keras_serializable("tfbig")
class GraphLayer(keras.layers.Layer):
    """Calls a graph whose variables are the weights of this layer, so that they can be trained.

    Args:
        graph: a compressed GraphDef in base64. Its placeholders are inputs and weights.
        inputs: names of the input placeholders by key: {"features": "x"}; the key "" means a
            single tensor.
        outputs: names of the output tensors, in the same way.
        variables: a dict for each weight: name (of the placeholder), path, shape, dtype, trained.
    """

    def __init__(
        self,
        graph: str,
        inputs: dict[str, str],
        outputs: dict[str, str],
        variables: list[dict[str, Any]],
        **keywords,
    ):
        super().__init__(autocast=False, **keywords)
        self._graph, self._inputs, self._outputs = graph, dict(inputs), dict(outputs)
        self._specs = [dict(spec) for spec in variables]
        self._definition = _checked(_unpacked(graph), graph)
        self._function = tf.function(self._imported, reduce_retracing=True)
        self._parameters = [
            self.add_weight(
                shape=spec["shape"],
                dtype=spec["dtype"],
                initializer="zeros",
                trainable=spec["trained"],
                name=spec["path"].replace("/", "_"),
            )
            for spec in self._specs
        ]
        self.built = True

    @override
    def call(self, inputs, training=None):
        del training  # the graph was traced for one mode
        values = [tf.convert_to_tensor(weight) for weight in self._parameters]
        given = {key: inputs[key] if key else inputs for key in self._inputs}
        outputs = self._function(given, values)
        return outputs.get("", outputs)

    def _imported(self, inputs: dict, values: list) -> dict:
        fed = {f"{name}:0": inputs[key] for key, name in self._inputs.items()}
        fed |= {f"{spec['name']}:0": value for spec, value in zip(self._specs, values, strict=True)}
        found = tf.graph_util.import_graph_def(
            self._definition, input_map=fed, return_elements=list(self._outputs.values()), name=""
        )
        return dict(zip(self._outputs, found, strict=True))

    @override
    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "graph": self._graph,
            "inputs": self._inputs,
            "outputs": self._outputs,
            "variables": self._specs,
        }


def as_model(function, name: str) -> tuple[keras.Model, list[str]]:
    """Builds a functional model from a concrete function of tensors.

    Args:
        function: a ConcreteFunction, whose variables are copied.
        name: name of the model.

    Returns:
        The model, and the paths of variables that are trainable but have no gradient.

    Raises:
        CannotBeLayer: the graph assigns variables or uses lookup tables.
    """
    frozen, names = _frozen(function)
    arguments = _keyed(frozen.inputs, function.structured_input_signature)
    outputs = _keyed(frozen.outputs, function.structured_outputs)
    variables = {id(v): v for v in function.variables}
    specs = [
        {
            "name": placeholder,
            "path": variables[key].name.split(":")[0],
            "shape": variables[key].shape.as_list(),
            "dtype": variables[key].dtype.name,
            "trained": bool(variables[key].trainable and variables[key].dtype.is_floating),
        }
        for key, placeholder in names.items()
    ]
    values = [variables[key].numpy() for key in names]
    graph = _packed(_without_values(frozen.graph.as_graph_def(), set(names.values())))
    inputs = {key: tensor.op.name for key, tensor in arguments.items()}
    ends = {key: tensor.name for key, tensor in outputs.items()}
    symbols = {
        key: keras.Input(tensor.shape[1:], dtype=tensor.dtype.name, name=tensor.op.name)
        for key, tensor in arguments.items()
    }
    unreached = _without_gradient(GraphLayer(graph, inputs, ends, specs), symbols)
    for i in unreached:
        specs[i]["trained"] = False
    layer = GraphLayer(graph, inputs, ends, specs, name="graph")
    layer.set_weights([values[i] for i in _order(layer)])
    given = symbols.get("", symbols)
    return keras.Model(given, layer(given), name=name), [specs[i]["path"] for i in unreached]


def _frozen(function):
    """Replaces variables by constants; returns the function, and constant names by variable."""
    handles = {id(v.handle): id(v) for v in function.variables}
    names = {}
    for outer, inner in function.graph.captures:
        if outer.dtype == tf.resource and id(outer) in handles:
            names[handles[id(outer)]] = inner.op.name
        elif outer.dtype in (tf.resource, tf.variant):
            raise CannotBeLayer("it looks values up in a table")
    assigned = {op for op in _operations(function.graph.as_graph_def()) if op.startswith("Assign")}
    if assigned:
        raise CannotBeLayer(f"it assigns variables ({', '.join(sorted(assigned))})")
    try:
        frozen = _private_api.variables_as_constants(function)
    except (ValueError, KeyError, NotImplementedError, tf.errors.OpError) as error:
        raise CannotBeLayer(str(error).split("\n")[0]) from error
    return frozen, names


def _operations(graph: tf.compat.v1.GraphDef) -> Iterator[str]:
    yield from (node.op for node in graph.node)
    for function in graph.library.function:
        yield from (node.op for node in function.node_def)


def _keyed(tensors: list, structure: Any) -> dict:
    """Flat tensors by their key in the structure of a signature; "" for a single tensor."""
    if isinstance(structure, tuple) and len(structure) == 2 and isinstance(structure[1], dict):
        positional, named = structure
        structure = dict(named) or (positional[0] if len(positional) == 1 else list(positional))
    if isinstance(structure, dict) and all(
        isinstance(s, tf.TensorSpec) for s in structure.values()
    ):
        keys = sorted(structure)
    else:
        keys = [str(i) for i in range(len(tensors))]
    if len(keys) != len(tensors):
        raise CannotBeLayer(f"its signature {structure} is nested")
    return {"": tensors[0]} if len(tensors) == 1 else dict(zip(keys, tensors, strict=True))


def _without_values(graph: tf.compat.v1.GraphDef, names: set[str]) -> tf.compat.v1.GraphDef:
    """Converts the constants that replace variables to placeholders."""
    for node in graph.node:
        if node.name in names:
            dtype = node.attr["dtype"].type
            node.op = "Placeholder"
            node.attr.clear()
            node.attr["dtype"].type = dtype
    return graph


def _without_gradient(layer: GraphLayer, symbols: dict) -> list[int]:
    """The indices of trained variables without a gradient, found with a batch of zeros.

    Every dtype has zeros, and only the structure of the graph matters here.
    """
    zeros = {
        key: tf.zeros([1, *(n or 1 for n in symbol.shape[1:])], symbol.dtype)
        for key, symbol in symbols.items()
    }
    trained = [i for i, spec in enumerate(layer.get_config()["variables"]) if spec["trained"]]
    try:
        with tf.GradientTape() as tape:
            outputs = layer(zeros.get("", zeros))
            total = tf.add_n(
                [
                    tf.reduce_sum(tf.cast(o, tf.float32))
                    for o in tf.nest.flatten(outputs)
                    if o.dtype.is_floating
                ]
            )
        gradients = tape.gradient(total, [v.value for v in layer.trainable_variables])
    except (LookupError, TypeError, ValueError, tf.errors.OpError):
        return trained  # an operation has no gradient
    return [i for i, gradient in zip(trained, gradients, strict=True) if gradient is None]


def _order(layer: GraphLayer) -> list[int]:
    """The indices of `layer.weights` in its list of variables."""
    specs = layer.get_config()["variables"]
    indices = list(range(len(specs)))
    return sorted(indices, key=lambda i: not specs[i]["trained"])


def _packed(graph: tf.compat.v1.GraphDef) -> str:
    return base64.b64encode(zlib.compress(graph.SerializeToString(deterministic=True))).decode()


def _unpacked(text: str) -> tf.compat.v1.GraphDef:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text), _MAX_GRAPH_BYTES)
    if unpacker.unconsumed_tail:
        raise UserError(
            f"the graph in a saved GraphLayer decompresses to over {_MAX_GRAPH_BYTES} bytes."
        )
    return tf.compat.v1.GraphDef.FromString(data)


def _checked(graph: tf.compat.v1.GraphDef, text: str) -> tf.compat.v1.GraphDef:
    digest = hashlib.sha256(text.encode()).hexdigest()
    if _trusting.get():
        _trusted.add(digest)  # so that this program can rebuild the layer in another scope
    refused = refused_operations(_operations(graph))
    if refused and digest not in _trusted:
        raise UserError(
            f"the graph has operations that access files or Python functions "
            f"({', '.join(refused)}); if you trust its source, pass safe_mode=False."
        )
    return graph
