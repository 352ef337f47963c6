"""Divides the graph of a functional model into blocks that are recomputed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras

from tfbig import _private_api

_LARGE = 32  # a piece with more operations is divided even if it has no natural boundaries


class Segment(NamedTuple):
    """Some consecutive operations of a graph.

    Attributes:
        nodes: in the order of execution.
        inputs, outputs: keys of the tensors that it reads from, and passes to, other segments.
        recomputed: whether it is a block.
        divided: whether it has a layer with blocks inside.
    """

    nodes: list[_private_api.Node]
    inputs: list[int]
    outputs: list[int]
    recomputed: bool
    divided: bool

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of all its layers, each once."""
        layers = [n.operation for n in self.nodes if isinstance(n.operation, keras.layers.Layer)]
        return list({id(v): v for layer in layers for v in layer.variables}.values())

    @property
    def name(self) -> str:
        """The names of its first and last operation, for messages."""
        return f"{self.nodes[0].operation.name} … {self.nodes[-1].operation.name}"

    def run(self, tensors: dict, operation_fn: Callable) -> dict:
        """Computes its outputs from its inputs, both dicts of tensors by key."""
        tensors = dict(tensors)
        for node in self.nodes:
            node.run(tensors, operation_fn)
        return {key: tensors[key] for key in self.outputs if key in tensors}


def segments_of(
    graph: keras.Model,
    is_divided: Callable[[keras.layers.Layer], bool],
    outermost: bool,
    grouped: bool = True,
) -> list[Segment]:
    """Divides a graph where only one tensor passes: between residual blocks, or layers.

    A piece with branches is one block. A row of n single operations becomes about sqrt(n) blocks
    of about equal memory, as in Chen et al. Inputs of the model and tensors without gradients are
    stored anyway, so they may pass between any blocks.

    Args:
        graph: a functional model.
        is_divided: whether a layer has blocks inside, and is therefore not part of a block.
        outermost: whether the graph is not part of another model. Then its last segment is not
            recomputed, since its backward pass follows directly on its forward pass.
        grouped: whether a row of operations becomes a few blocks. False: each is one.
    """
    nodes = _private_api.graph_nodes(graph)
    pieces: list[list] = []
    row: list = []
    for piece in _pieces(graph, nodes):
        single = len(piece) == 1
        divided = any(is_divided(node.operation) for node in piece)
        if row and (divided or not single):
            pieces += _equal_groups(row)
            row = []
        if single and not divided and not grouped:
            pieces.append(piece)
        elif single and not divided:
            row += piece
        elif divided:
            pieces += [[node] for node in piece]
        else:
            pieces += _equal_groups(piece) if len(piece) > _LARGE else _connected(piece)
    pieces += _equal_groups(row)
    if len(pieces) == 1 and outermost and grouped:
        pieces = _equal_groups(nodes, groups=2)
    used_at: dict[int, int] = {}
    for i, piece in enumerate(pieces):
        used_at |= {key: i for node in piece for key in node.inputs}
    used_at |= {id(t): len(pieces) for t in graph.outputs}
    segments = []
    for i, piece in enumerate(pieces):
        computed = [key for node in piece for key in node.outputs]
        inputs = {key: None for node in piece for key in node.inputs if key not in computed}
        last = outermost and i == len(pieces) - 1
        divided = any(is_divided(node.operation) for node in piece)
        recomputed = not last and not divided
        outputs = [key for key in computed if used_at.get(key, -1) > i]
        segments.append(Segment(piece, list(inputs), outputs, recomputed, divided))
    return segments


def _pieces(graph: keras.Model, nodes: list) -> list[list]:
    """Groups of operations between two positions where only one tensor with a gradient passes."""
    uses_left: dict[int, int] = {id(t): 1 for t in graph.outputs}
    for node in nodes:
        for key in node.inputs:
            uses_left[key] = uses_left.get(key, 0) + 1
    alive: set[int] = set()
    pieces: list[list] = [[]]
    for node in nodes:
        pieces[-1].append(node)
        alive |= {k for k, d in zip(node.outputs, node.differentiable, strict=True) if d}
        for key in node.inputs:
            uses_left[key] -= 1
        alive = {key for key in alive if uses_left.get(key)}
        if len(alive) <= 1:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _connected(piece: list) -> list[list]:
    """The parts of a piece between which no tensor passes, such as the heads of a model.

    In one block a head without a loss would get gradients of zero instead of none.
    """
    parts: list[tuple[set[int], list]] = []  # the keys that a part computes, and its nodes
    for node in piece:
        mine = [part for part in parts if part[0].intersection(node.inputs)]
        keys = set(node.outputs).union(*(keys for keys, _ in mine))
        nodes = [other for _, others in mine for other in others]
        parts = [part for part in parts if part not in mine]
        parts.append((keys, [*nodes, node]))
    order = {id(node): i for i, node in enumerate(piece)}
    found = [sorted(nodes, key=lambda node: order[id(node)]) for _, nodes in parts]
    return sorted(found, key=lambda nodes: order[id(nodes[0])])


def _equal_groups(nodes: list, groups: int | None = None) -> list[list]:
    """Divides n nodes into about sqrt(n) groups with outputs of about equal size."""
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
