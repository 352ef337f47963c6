"""Finds the features of a classifier, and the layers after them."""

import dataclasses
from collections.abc import Sequence

import keras

from tfbig import _private_api

# Names of activations, layers and operations, in lower case without "_".
_PROBABILITIES = {
    "softmax",
    "logsoftmax",
    "sparsemax",
    "sigmoid",
    "logsigmoid",
    "hardsigmoid",
    "sparsesigmoid",
}
# Activations that are applied to features, not to logits.
_HIDDEN = {
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardshrink",
    "hardsilu",
    "hardswish",
    "hardtanh",
    "leakyrelu",
    "mish",
    "normalize",
    "relu",
    "relu6",
    "selu",
    "silu",
    "softplus",
    "softshrink",
    "softsign",
    "sparseplus",
    "squareplus",
    "swish",
    "tanh",
    "tanhshrink",
    "threshold",
    "unitnormalization",
}
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


class NoFeatures(Exception):
    """The features before a model's classifier cannot be identified; the message says why."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """The end of a model.

    Attributes:
        features: a KerasTensor of the model: the input of the old classifier, or the output.
        replaced: names of the layers after it, the classifier first; () if none.
        pooling: the call that pools the positions of the classifier's output, or None.
    """

    features: keras.KerasTensor
    replaced: tuple[str, ...] = ()
    pooling: _private_api.Node | None = None


@dataclasses.dataclass
class _Tail:
    """The calls between a model's output and the last layer with weights, the output first."""

    nodes: list[_private_api.Node]
    output: keras.KerasTensor
    is_chain: bool = True

    def add(self, node: _private_api.Node) -> None:
        self.is_chain = self.is_chain and len(set(node.inputs)) == 1
        if self.is_chain:
            self.nodes.append(node)

    @property
    def operations(self) -> list[keras.Operation]:
        return [node.operation for node in self.nodes]

    def has(self, kinds: set[str], last: keras.Operation | None = None) -> bool:
        return any(_activation(each) in kinds for each in [*self.operations, last])

    @property
    def pooling(self) -> _private_api.Node | None:
        found = [node for node in self.nodes if pools(node)]
        return found[-1] if found else None


def pools(node: _private_api.Node) -> str:
    """How a call pools positions: "max", "average" or "pick", or "" if it does not."""
    name = type(node.operation).__name__.lower()
    if name == "getitem":
        return "pick"
    if name.startswith("global") or name in ("max", "mean"):
        return "max" if "max" in name else "average"
    return ""


def ending_of(model: keras.Model) -> Ending:
    """Finds the features of a functional or Sequential model.

    Args:
        model: a model with one output.

    Raises:
        NoFeatures: it ends in probabilities but its classifier cannot be identified, or its end
            is ambiguous.
    """
    output = model.outputs[0]
    return _ending(_private_api.functional_graph(model), output, _Tail([], output))


def _ending(graph: keras.Model, output: keras.KerasTensor, tail: _Tail) -> Ending:
    nodes = _private_api.graph_nodes(graph)
    needed = {id(output)}
    for node in reversed(nodes):  # the output depends only on `needed`
        reached = needed & set(node.outputs)
        if not reached:
            continue
        layer = node.operation
        inner = _private_api.functional_graph(layer) if isinstance(layer, keras.Model) else None
        weights = getattr(layer, "weights", ())
        passes = isinstance(layer, _NORMALIZATIONS) and tail.has(_PROBABILITIES)
        if not weights or (passes and needed == reached):
            tail.add(node)
            needed = needed - reached | set(node.inputs)
            continue
        if needed != reached or len(reached) > 1:
            break
        if inner is not None:
            index = node.outputs.index(reached.pop())
            if _calls(nodes, layer) > 1:
                return _kept(output, tail, f"{layer.name!r} is called several times")
            found = _ending(inner, inner.outputs[index], tail)
            if not found.replaced:
                return Ending(output)
            return dataclasses.replace(found, features=_lifted(inner, found.features, node))
        return _of_last(layer, node, nodes, output, tail)
    return _kept(output, tail, "no layer with weights is the only way to them")


def _of_last(
    layer: keras.layers.Layer,
    node: _private_api.Node,
    nodes: Sequence[_private_api.Node],
    output: keras.KerasTensor,
    tail: _Tail,
) -> Ending:
    """The ending if a layer is the last one with weights, and the only path to the output."""
    if isinstance(layer, keras.Model):
        raise NoFeatures(
            f"it ends in {layer.name!r}, a {type(layer).__name__} with its own call method, in "
            "which the classifier cannot be identified"
        )
    name, probabilities = layer.name, tail.has(_PROBABILITIES, layer)
    entered = node.arguments[0][0] if node.arguments[0] else None
    if not isinstance(entered, keras.KerasTensor) or len(node.inputs) != 1:
        return _kept(output, tail, f"{name!r} takes several tensors", layer)
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        if node.arguments[1].get("reverse"):  # tied weights: the input still uses the layer
            return Ending(entered, _replaced(layer, tail), tail.pooling)
        return _kept(output, tail, f"{name!r} is an embedding", layer)
    if _calls(nodes, layer) > 1:
        return _kept(output, tail, f"{name!r} is called several times", layer)
    hidden = tail.has(_HIDDEN, layer) and not probabilities
    if _is_dense(layer, entered):
        units = getattr(layer, "units", layer.kernel.shape[-1])
        if hidden and units > 1:  # a hidden layer, such as the pooler of BERT
            return Ending(output)
        _check_places(layer, entered, units, -1, tail)
        return Ending(entered, _replaced(layer, tail), tail.pooling)
    if isinstance(layer, _CONVOLUTIONS):
        if not probabilities and _ends_in_features(layer, entered, hidden, tail):
            return Ending(output)
        channels = 1 if layer.data_format == "channels_first" else -1
        _check_places(layer, entered, layer.filters, channels, tail)
        return Ending(entered, _replaced(layer, tail), tail.pooling)
    return _kept(output, tail, f"a {type(layer).__name__} computes them", layer)


def _kept(
    output: keras.KerasTensor, tail: _Tail, reason: str, layer: keras.layers.Layer | None = None
) -> Ending:
    """Uses the output as the features, unless it is probabilities."""
    if tail.has(_PROBABILITIES, layer):
        raise NoFeatures(f"it ends in probabilities, and {reason}")
    return Ending(output)


def _is_dense(layer: keras.layers.Layer, entered: keras.KerasTensor) -> bool:
    if isinstance(layer, keras.layers.EinsumDense):  # only over the last dimension
        shape = layer.kernel.shape
        return len(shape) == 2 and shape[0] == entered.shape[-1]
    return isinstance(layer, keras.layers.Dense)


def _ends_in_features(
    layer: keras.layers.Layer, entered: keras.KerasTensor, hidden: bool, tail: _Tail
) -> bool:
    """Whether a convolution without probabilities is part of a backbone, not a classifier.

    Raises:
        NoFeatures: it may be either.
    """
    channels_first = layer.data_format == "channels_first"
    places = entered.shape[2:] if channels_first else entered.shape[1:-1]
    if len(tail.output.shape) == 2 and tail.output.shape[-1] != layer.filters:
        return True  # flattened with its positions
    if hidden and (max(layer.kernel_size) > 1 or len(tail.output.shape) > 2):
        return True
    if hidden and all(n == 1 for n in places):
        return True
    if hidden or len(tail.output.shape) > 2:
        which = "after an activation" if hidden else "at each position"
        raise NoFeatures(
            f"the output of its last convolution {layer.name!r} may be features, or numbers for "
            f"classes {which}"
        )
    return False


def _check_places(
    layer: keras.layers.Layer, entered: keras.KerasTensor, units: int, axis: int, tail: _Tail
) -> None:
    """Raises NoFeatures if the positions are the classes, so that they cannot be pooled."""
    places = entered.shape[2:] if axis == 1 else entered.shape[1:-1]
    several = any(n != 1 for n in places)
    output = tail.output.shape
    if several and output[axis if len(output) > 2 else -1] != units:
        raise NoFeatures(
            f"the {units} outputs of {layer.name!r} at each position become an output of the shape "
            f"{('batch', *output[1:])}, so the positions are classes"
        )


def _calls(nodes: Sequence[_private_api.Node], layer: keras.layers.Layer) -> int:
    return sum(node.operation is layer for node in nodes)


def _replaced(layer: keras.layers.Layer, tail: _Tail) -> tuple[str, ...]:
    return tuple(each.name for each in [layer, *reversed(tail.operations)])


def _lifted(
    inner: keras.Model, features: keras.KerasTensor, node: _private_api.Node
) -> keras.KerasTensor:
    """Converts features inside a nested model to a tensor of the outer graph.

    The nested model is called as before, but its output is the features.
    """
    layer = node.operation
    args, keywords = node.arguments
    if len(inner.inputs) == 1 and features is inner.inputs[0]:
        return keras.tree.flatten(args)[0]  # the nested model is only the classifier
    entered = inner.inputs[0] if isinstance(layer, keras.Sequential) else inner.input
    return keras.Model(entered, features, name=layer.name)(*args, **keywords)


def _activation(operation: keras.Operation | None) -> str:
    """The name of a layer's activation function, or of the operation itself."""
    function = getattr(operation, "activation", None)
    name = getattr(function, "__name__", None) or type(function or operation).__name__
    return _plain(name)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
