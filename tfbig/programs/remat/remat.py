"""Recomputation of activations by block: less memory, more arithmetic, the same numbers.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016,
https://arxiv.org/abs/1604.06174.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.rows import shard_of
from tfbig.programs.remat.recomputed import Block
from tfbig.programs.remat.segments import Segment, segments_of

_FEW = 4  # a nested model of so few operations is one block


class Remat:
    """The blocks of a built Keras model, and how they are run.

    Those of a functional or Sequential model are pieces of its graph; those of a subclassed
    model are its layers with weights. A model nested in it is divided in the same way, and so is
    a layer that holds several layers which are made of layers.

    Args:
        model: built.

    Raises:
        UserError: it has no blocks.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._graphs: list[tuple[keras.Model, list[Segment]]] = []
        self._layers: list[keras.layers.Layer] = []
        self._divide(model)
        blocks = sum(s.recomputed for _, segments in self._graphs for s in segments)
        if not self._layers and not blocks:
            raise UserError(
                f"remat=True, but the model {model.name!r} cannot be divided into blocks; leave "
                "remat out."
            )

    def _divide(self, layer: keras.layers.Layer) -> None:
        graph = _private_api.functional_graph(layer)
        if graph is not None:
            segments = segments_of(graph, _is_divided, whole=layer is self._model)
            self._graphs.append((graph, segments))
        for inner in _private_api.sublayers(graph or layer):
            if _is_divided(inner):
                self._divide(inner)
            elif graph is None and inner.weights:
                self._layers.append(inner)

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Held around a whole trace, outside the replicas: stands between model and blocks."""
        with contextlib.ExitStack() as stack:
            for graph, segments in {id(graph): (graph, s) for graph, s in self._graphs}.values():
                run = functools.partial(self._run_graph, graph, segments)
                stack.enter_context(_private_api.graph_run_by(graph, run))
            for layer in {id(layer): layer for layer in self._layers}.values():
                stack.enter_context(self._called(layer))
            yield

    @contextlib.contextmanager
    def _called(self, layer: keras.layers.Layer) -> Iterator[None]:
        plain = layer.call
        own = "call" in vars(layer)  # somebody else's, who takes it away again

        @functools.wraps(plain)
        def call(*args, **kwargs):
            if not _active():
                return plain(*args, **kwargs)
            return self._recomputed(
                lambda given: plain(*given[0], **given[1]),
                (args, kwargs),
                layer.variables,
                layer.name,
            )

        vars(layer)["call"] = call
        try:
            yield
        finally:
            del vars(layer)["call"]
            if own:
                vars(layer)["call"] = plain

    def _run_graph(self, graph, segments: list[Segment], plain, inputs: list, operation_fn) -> Any:
        if not _active():
            return plain()
        known = dict(zip([id(t) for t in graph.inputs], inputs, strict=True))
        for segment in segments:
            compute = functools.partial(segment.run, operation_fn=operation_fn)
            if segment.recomputed:
                given = {key: known[key] for key in segment.inputs if key in known}
                known |= self._recomputed(compute, given, segment.variables, segment.name)
            else:
                known |= compute(known)
        return keras.tree.pack_sequence_as(graph.output, [known[id(t)] for t in graph.outputs])

    def _recomputed(self, compute: Callable, inputs: Any, variables: list, name: str) -> Any:
        def alone(inputs):
            with recomputing(None):  # its layers are no blocks inside a block
                return compute(inputs)

        outputs, losses = Block(alone, variables, _active(), name)(inputs)
        for loss in losses:
            self._model.add_loss(loss)  # layers know their losses by identity
        return outputs


_now = threading.local()  # replicas are traced in threads of their own


@contextlib.contextmanager
def recomputing(scope: keras.StatelessScope | None) -> Iterator[None]:
    """Has blocks recomputed by what is called inside.

    Args:
        scope: the one that the model is called in, with the values of all its variables; None:
            blocks are not recomputed.
    """
    before = _active()
    _now.scope = scope
    try:
        yield
    finally:
        _now.scope = before


def _active() -> keras.StatelessScope | None:
    return getattr(_now, "scope", None)


def _is_divided(layer: Any) -> bool:
    """Whether a layer inside a model is no block, but has blocks."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    if any(shard_of(weight) for weight in layer.weights):
        return True  # a block is given the values of its variables, which are not read here
    graph = _private_api.functional_graph(layer)
    if graph is not None:
        return len(_private_api.graph_nodes(graph)) > _FEW
    made_of_layers = [
        inner
        for inner in _private_api.sublayers(layer)
        if any(each.weights for each in _private_api.sublayers(inner))
    ]
    return len(made_of_layers) > 1
