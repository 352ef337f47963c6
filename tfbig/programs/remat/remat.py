"""Recomputation of activations, block by block: less memory, more arithmetic, equal results.

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
from tfbig.layers.sharded_tables import shard_of
from tfbig.programs.divided_weights import DividedWeights
from tfbig.programs.remat.block import Block
from tfbig.programs.remat.segments import Segment, segments_of

_FEW = 4  # a nested model of so few operations is one block


class Remat:
    """The blocks of a built Keras model, and how they are run.

    The blocks of a functional or Sequential model are segments of its graph. The blocks of a
    subclassed model are its layers with weights. A nested model is divided in the same way, and
    so is a layer that contains several composite layers.

    Args:
        model: built.
        recompute: whether activations are recomputed.
        weights: how replicas divide the weights of blocks; None: they do not. Without `recompute`
            blocks are as small as possible, and operations without weights are in none. Blocks
            that gather their weights are recomputed all the same.

    Raises:
        UserError: activations are to be recomputed, and the model has no blocks.
    """

    def __init__(
        self, model: keras.Model, *, recompute: bool = True, weights: DividedWeights | None = None
    ):
        self._model, self._recompute, self._divides = model, recompute, weights is not None
        self._keeps = not (recompute or (weights is not None and weights.gathers))
        self._graphs: list[tuple[keras.Model, list[Segment]]] = []
        self._layers: list[keras.layers.Layer] = []
        self._divide(model)
        blocks = sum(s.recomputed for _, segments in self._graphs for s in segments)
        if recompute and not self._layers and not blocks:
            raise UserError(
                f"remat=True, but the model {model.name!r} cannot be divided into blocks; leave "
                "remat out."
            )

    def _divide(self, layer: keras.layers.Layer) -> None:
        graph = _private_api.functional_graph(layer)
        if graph is not None:
            segments = segments_of(
                graph, _is_divided, outermost=layer is self._model, grouped=self._recompute
            )
            self._graphs.append((graph, segments))
        for inner in _private_api.sublayers(graph or layer):
            if _is_divided(inner):
                self._divide(inner)
            elif graph is None and inner.weights:
                self._layers.append(inner)

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Replaces the calls of the blocks. Enter it once per trace, outside the replicas."""
        with contextlib.ExitStack() as stack:
            for graph, segments in {id(graph): (graph, s) for graph, s in self._graphs}.values():
                run = functools.partial(self._run_graph, graph, segments)
                stack.enter_context(_private_api.replaced_graph_run(graph, run))
            for layer in {id(layer): layer for layer in self._layers}.values():
                stack.enter_context(self._called(layer))
            yield

    @contextlib.contextmanager
    def _called(self, layer: keras.layers.Layer) -> Iterator[None]:
        plain = layer.call
        replaced = "call" in vars(layer)  # by another context, which restores it

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
            if replaced:
                vars(layer)["call"] = plain

    def _run_graph(self, graph, segments: list[Segment], plain, inputs: list, operation_fn) -> Any:
        if not _active():
            return plain()
        known = dict(zip([id(t) for t in graph.inputs], inputs, strict=True))
        for segment in segments:
            compute = functools.partial(segment.run, operation_fn=operation_fn)
            if self._is_block(segment):
                given = {key: known[key] for key in segment.inputs if key in known}
                known |= self._recomputed(
                    compute, given, segment.variables, segment.name, keep=not segment.recomputed
                )
            else:
                known |= compute(known)
        return keras.tree.pack_sequence_as(graph.output, [known[id(t)] for t in graph.outputs])

    @property
    def variables(self) -> dict[str, list[keras.Variable]]:
        """The variables of each block, by its number and name."""
        segments = [s for _, segments in self._graphs for s in segments if self._is_block(s)]
        found = [*((s.name, s.variables) for s in segments)]
        found += [(layer.name, layer.variables) for layer in self._layers]
        return {f"{i} {name}": variables for i, (name, variables) in enumerate(found)}

    def _is_block(self, segment: Segment) -> bool:
        if segment.divided:
            return False
        if self._divides and segment.variables:
            return True
        return self._recompute and segment.recomputed

    def _recomputed(
        self,
        compute: Callable,
        inputs: Any,
        variables: list,
        name: str,
        *,
        keep: bool = False,
    ) -> Any:
        def without_inner_blocks(inputs):
            with recomputing(None):
                return compute(inputs)

        recompute = not (keep or self._keeps)
        block = Block(without_inner_blocks, variables, _active(), name, recompute=recompute)
        outputs, losses = block(inputs)
        for loss in losses:
            self._model.add_loss(loss)  # the losses of the layers are tensors of the block
        return outputs


_current = threading.local()  # each replica is traced in a thread of its own


@contextlib.contextmanager
def recomputing(scope: keras.StatelessScope | None) -> Iterator[None]:
    """Recomputes the blocks of a model that is called inside the block.

    Args:
        scope: in which the model is called, with the values of all its variables. None switches
            recomputation off.
    """
    before = _active()
    _current.scope = scope
    try:
        yield
    finally:
        _current.scope = before


def _active() -> keras.StatelessScope | None:
    return getattr(_current, "scope", None)


def _is_divided(layer: Any) -> bool:
    """Whether a layer inside a model is divided into blocks, and is not one block."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    if any(shard_of(weight) for weight in layer.weights):
        return True  # a block reads its variables as a whole, and a sharded table must not be read
    graph = _private_api.functional_graph(layer)
    if graph is not None:
        return len(_private_api.graph_nodes(graph)) > _FEW
    made_of_layers = [
        inner
        for inner in _private_api.sublayers(layer)
        if any(each.weights for each in _private_api.sublayers(inner))
    ]
    return len(made_of_layers) > 1
