"""Splits the graph of a traced model_fn at the gradients: into `compute` and `update`.

TensorFlow 1 code builds one graph in which `train_op` depends on the gradients, and the gradients
depend on the batch. Here gradients are first summed over micro-batches and replicas, so the graph
is cut there. `compute` ends with the gradients. `update` begins with their sums, and contains what
the user's code does to gradients (clipping, schedules, the optimizer's rule). As in a tf.Session,
only operations that a fetched one depends on are run.
"""

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.model_fn.writes import Writes


class GraphSplit(NamedTuple):
    """The two halves of a training graph.

    Attributes:
        compute: names of the operations that run on each micro-batch because train_op depends on
            them, such as updates of moving statistics. The forward pass is not among them.
        update: names of the operations that make up the update.
        cuts: names of the gradient tensors that the update reads.
    """

    compute: list[str]
    update: list[str]
    cuts: set[str]


class SplitGraph:
    """A graph as nodes and edges.

    When a trace ends, TensorFlow adds control edges that order the reads and writes of a variable.
    They say when an operation runs, and not whether: a prediction that reads a variable after a
    train_op was made does not run that train_op, as in a tf.Session.

    Args:
        graph: traced, and not changed afterwards.
        batch: names of the placeholders of a batch.
        controls: by operation, the control inputs that it had before the trace ended; None: all.
    """

    def __init__(self, graph: tf.Graph, batch: Iterable[str], controls: dict | None = None):
        self._definition = graph.as_graph_def()
        self._batch = set(batch)
        self._writes = Writes(self._definition.library)
        self.nodes = {node.name: node for node in self._definition.node}
        self._inputs: dict[str, list[str]] = {}
        self._controls: dict[str, list[str]] = {}
        self._readers: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
        self._followers: dict[str, list[str]] = collections.defaultdict(list)
        self._ordering: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            self._inputs[name] = [_tensor(i) for i in node.input if not i.startswith("^")]
            edges = [i[1:] for i in node.input if i.startswith("^")]
            self._controls[name] = edges if controls is None else controls.get(name, [])
            self._ordering[name] = [e for e in edges if e not in self._controls[name]]
            for tensor in self._inputs[name]:
                self._readers[_node(tensor)].append((tensor, name))
            for control in self._controls[name]:
                self._followers[control].append(name)

    def follow(self, sources: set[str]) -> None:
        """Follows the ordering edges from some operations after all.

        Args:
            sources: names of operations, such as those that advance the seed of a Keras layer,
                which its next call reads.
        """
        for name, edges in self._ordering.items():
            added = [edge for edge in edges if edge in sources]
            self._controls[name] = [*self._controls[name], *added]
            for edge in added:
                self._followers[edge].append(name)

    def split(self, train_op: str, gradients: set[str]) -> GraphSplit:
        """Splits the graph between the batch and a train_op.

        Args:
            train_op: name of an operation.
            gradients: names of all tensors at which the graph may be cut.

        Raises:
            UserError: the update reads another tensor that is computed from the batch.
        """
        of_batch = self.computed_from(self._batch, gradients)
        of_gradients = self.following(gradients)
        mixed = of_batch & self.following(gradients, control=False)
        compute: dict[str, None] = {}
        update: dict[str, None] = {}
        cuts: set[str] = set()
        visited: set[str] = set()
        todo = [train_op]
        while todo:
            name = todo.pop()
            if name in visited:
                continue
            visited.add(name)
            if name in of_batch:  # reached by control dependencies only, so it belongs to compute
                if name in mixed and self._has_side_effect(name):
                    raise UserError(_reads_batch(self._first_of(name, of_batch), name, train_op))
                compute[name] = None
                todo += self._updates_before(name, of_batch, of_gradients)
                continue
            update[name] = None
            todo += self._controls[name]
            for tensor in self._inputs[name]:
                if tensor in gradients:
                    cuts.add(tensor)
                elif _node(tensor) in of_batch:
                    raise UserError(_reads_batch(tensor, name, train_op))
                else:
                    todo.append(_node(tensor))
        return GraphSplit(list(compute), list(update), cuts)

    def _updates_before(self, name: str, of_batch: set, of_gradients: set) -> list[str]:
        """The operations of the update that an operation of `compute` has to run after."""
        found, visited, todo = [], set(), [name]
        while todo:
            current = todo.pop()
            if current in visited:
                continue
            visited.add(current)
            todo += [_node(t) for t in self._inputs[current]]
            for control in self._controls[current]:
                if control in of_gradients:
                    found.append(control)
                else:
                    todo.append(control)
        return found

    def computed_from(self, sources: Iterable[str], stop: set[str] = frozenset()) -> set[str]:
        """The operations that depend on the sources by data, but not through the stop tensors."""
        todo = list(sources)
        found = set(todo)
        while todo:
            for tensor, reader in self._readers[todo.pop()]:
                if tensor not in stop and reader not in found:
                    found.add(reader)
                    todo.append(reader)
        return found

    def adds(self, results: Iterable[str], reads: set[str], dependents: set[str]) -> bool:
        """Whether a result is the value of a variable plus something that does not depend on it.

        Args:
            results: names of operations.
            reads: operations that read the variable.
            dependents: all operations that depend on it.
        """
        todo = list(results)
        while todo:
            name = todo.pop()
            operands = [_node(tensor) for tensor in self._inputs[name]]
            if self.nodes[name].op == "Identity":
                todo += operands
            elif self.nodes[name].op in ("Add", "AddV2", "AddN", "Sub"):
                others = [o for o in operands if o not in reads]
                if len(others) < len(operands) and not dependents.intersection(others):
                    return True
        return False

    def _has_side_effect(self, name: str) -> bool:
        return any(
            self._is_resource(tensor) and self._writes.node(self.nodes[name], index)
            for index, tensor in enumerate(self._inputs[name])
        )

    def _is_resource(self, tensor: str) -> bool:
        node = self.nodes[_node(tensor)]
        return node.op == "Placeholder" and node.attr["dtype"].type == tf.resource.as_datatype_enum

    def _first_of(self, name: str, operations: set[str]) -> str:
        return next(t for t in self._inputs[name] if _node(t) in operations)

    def following(self, tensors: set[str], control: bool = True) -> set[str]:
        """The operations that depend on some tensors by data or, optionally, by control."""
        todo = [
            reader
            for tensor in tensors
            for read, reader in self._readers[_node(tensor)]
            if read == tensor
        ]
        found = set(todo)
        while todo:
            name = todo.pop()
            by_control = self._followers[name] if control else []
            for follower in [*(r for _, r in self._readers[name]), *by_control]:
                if follower not in found:
                    found.add(follower)
                    todo.append(follower)
        return found

    def needed(
        self, roots: Iterable[str], *, without: set[str] = frozenset(), control: bool = True
    ) -> set[str]:
        """The operations that the roots depend on, including the roots.

        Args:
            roots: names of operations.
            without: operations whose control edges are ignored. Their outputs still count.
            control: whether to follow control edges at all.
        """
        found, todo = set(), list(roots)
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            todo += [_node(t) for t in self._inputs[name]]
            todo += [c for c in self._controls[name] if control and c not in without]
        return found

    def left_to_update(self, gradients: set[str], split: GraphSplit) -> set[str]:
        """The operations that run after a batch is computed, or once per update."""
        after = self.following(gradients) - self.computed_from(self._batch, gradients)
        return after | {name for name in split.update if self._has_side_effect(name)}

    def part(self, names: set[str]) -> tf.compat.v1.GraphDef:
        """The graph definition of some operations, without devices."""
        part = tf.compat.v1.GraphDef()
        part.versions.CopyFrom(self._definition.versions)
        part.library.CopyFrom(self._definition.library)
        for name, node in self.nodes.items():
            if name not in names or node.op == "Placeholder":
                continue
            copy = part.node.add()
            copy.CopyFrom(node)
            copy.device = ""
            copy.attr.pop("_class", None)
            del copy.input[:]
            copy.input.extend(
                i for i in node.input if not i.startswith("^") or self._is_in(i[1:], names)
            )
        return part

    def _is_in(self, name: str, names: set[str]) -> bool:
        return name in names and self.nodes[name].op != "Placeholder"

    def tensors_read(self, names: set[str]) -> set[str]:
        """The names of the tensors that some operations read."""
        return {tensor for name in names for tensor in self._inputs[name]}

    def written(self, names: Iterable[str], resources: dict[str, str]) -> dict[str, list[str]]:
        """The operations that may change each variable, by name of the variable.

        Args:
            names: of operations.
            resources: names of variables, by the name of their resource tensors.
        """
        found = collections.defaultdict(list)
        for name in names:
            for index, tensor in enumerate(self._inputs[name]):
                if tensor in resources and self._writes.node(self.nodes[name], index):
                    found[resources[tensor]].append(name)
        return found


def run_part(
    definition: tf.compat.v1.GraphDef, given: dict[str, tf.Tensor], wanted: Sequence[str]
) -> list:
    """Imports a part of a graph into the graph that is being traced.

    Args:
        definition: the result of `SplitGraph.part`.
        given: tensors of the graph that are not in the part, by name.
        wanted: names of tensors and operations. A given tensor is returned unchanged.

    Returns:
        The imported tensors and operations, in the order of `wanted`.
    """
    imported = [name for name in dict.fromkeys(wanted) if name not in given]
    read = {_tensor(edge) for node in definition.node for edge in node.input}
    mapped = {name: value for name, value in given.items() if name in read}
    found = tf.graph_util.import_graph_def(definition, mapped, imported, name="model_fn")
    by_name = {**dict(zip(imported, found, strict=True)), **given}
    return [by_name[name] for name in wanted]


def _tensor(edge: str) -> str:
    return edge if ":" in edge else f"{edge}:0"


def _node(tensor: str) -> str:
    return tensor.rsplit(":", 1)[0]


def _reads_batch(tensor: str, reader: str, train_op: str) -> str:
    return (
        f"train_op {train_op!r} reads the tensor {tensor!r} (in {reader!r}), which is computed "
        "from the batch other than through the gradients of tf.compat.v1.train optimizers or "
        "tf.gradients. An update is made once from the gradients of the whole global batch, where "
        "such a value of one part of the batch has no meaning; compute it from the gradients, the "
        "variables or the global step."
    )
