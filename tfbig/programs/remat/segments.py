"""How the graph of a functional model is divided into blocks that are recomputed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras

from tfbig import _private_api

_LARGE = 32  # operations in a piece that nothing divides, above which it is divided all the same


class Segment(NamedTuple):
    """Some consecutive operations of a graph.

    Attributes:
        nodes: in the order they run in.
        inputs, outputs: keys of the tensors that come from, and go to, other segments.
        recomputed: whether it is a block.
    """

    nodes: list[_private_api.Node]
    inputs: list[int]
    outputs: list[int]
    recomputed: bool

    @property
    def variables(self) -> list[keras.Variable]:
        """Of all layers in it, each once."""
        layers = [n.operation for n in self.nodes if isinstance(n.operation, keras.layers.Layer)]
        return list({id(v): v for layer in layers for v in layer.variables}.values())

    @property
    def name(self) -> str:
        return f"{self.nodes[0].operation.name} … {self.nodes[-1].operation.name}"

    def run(self, tensors: dict, operation_fn: Callable) -> dict:
        """From a dict with its inputs by key to one with its outputs."""
        tensors = dict(tensors)
        for node in self.nodes:
            node.run(tensors, operation_fn)
        return {key: tensors[key] for key in self.outputs if key in tensors}


def segments_of(
    graph: keras.Model, is_divided: Callable[[keras.layers.Layer], bool], whole: bool
) -> list[Segment]:
    """Divides a graph where one tensor alone goes on: between residual blocks, or layers.

    A piece with branches is a block. Of n single operations in a row, about sqrt(n) blocks are
    made, of about equal memory, which is Chen's choice. Inputs of the model are kept anyway, and
    so are tensors without gradients: they may go anywhere.

    Args:
        is_divided: tells the layers that have blocks of their own inside, and are none.
        whole: the graph is not part of another model; its last segment is not recomputed, since
            its backward pass comes right after its forward pass.
    """
    nodes = _private_api.graph_nodes(graph)
    pieces: list[list] = []
    row: list = []
    for piece in _pieces(graph, nodes):
        alone = len(piece) == 1
        divided = any(is_divided(node.operation) for node in piece)
        if row and (divided or not alone):
            pieces += _shared_out(row)
            row = []
        if alone and not divided:
            row += piece
        elif divided:
            pieces += [[node] for node in piece]
        else:
            pieces += _shared_out(piece) if len(piece) > _LARGE else [piece]
    pieces += _shared_out(row)
    if len(pieces) == 1 and whole:
        pieces = _shared_out(nodes, groups=2)
    used_at: dict[int, int] = {}
    for i, piece in enumerate(pieces):
        used_at |= {key: i for node in piece for key in node.inputs}
    used_at |= {id(t): len(pieces) for t in graph.outputs}
    segments = []
    for i, piece in enumerate(pieces):
        made = [key for node in piece for key in node.outputs]
        taken = {key: None for node in piece for key in node.inputs if key not in made}
        last = whole and i == len(pieces) - 1
        recomputed = not last and not any(is_divided(node.operation) for node in piece)
        given = [key for key in made if used_at.get(key, -1) > i]
        segments.append(Segment(piece, list(taken), given, recomputed))
    return segments


def _pieces(graph: keras.Model, nodes: list) -> list[list]:
    """The operations between two places where one tensor with a gradient alone goes on."""
    left: dict[int, int] = {id(t): 1 for t in graph.outputs}
    for node in nodes:
        for key in node.inputs:
            left[key] = left.get(key, 0) + 1
    alive: set[int] = set()
    pieces: list[list] = [[]]
    for node in nodes:
        pieces[-1].append(node)
        alive |= {k for k, d in zip(node.outputs, node.differentiable, strict=True) if d}
        for key in node.inputs:
            left[key] -= 1
        alive = {key for key in alive if left.get(key)}
        if len(alive) <= 1:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _shared_out(nodes: list, groups: int | None = None) -> list[list]:
    """About sqrt(n) groups of consecutive nodes, whose outputs are of about equal size."""
    if not nodes:
        return []
    sizes = [max(1, sum(node.sizes)) for node in nodes]
    limit = sum(sizes) / (groups or round(math.sqrt(len(nodes))))
    found: list[list] = [[]]
    filled = 0.0
    for node, size in zip(nodes, sizes, strict=True):
        if found[-1] and filled + size / 2 > limit:
            found.append([])
            filled = 0.0
        found[-1].append(node)
        filled += size
    return found
