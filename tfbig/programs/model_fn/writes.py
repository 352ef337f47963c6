"""Which operations of a graph may change a variable: also loops and conditions, by their bodies."""

from typing import Any

# Operations that take a variable and never change it.
READ_ONLY = {
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VariableShape",
    "VarIsInitializedOp",
    "StatelessIf",
    "StatelessWhile",
    "Identity",
}
# The number of inputs before those of the functions that these operations call.
_FIRST_INPUT = {"If": 1, "Case": 1, "While": 0, "PartitionedCall": 0, "StatefulPartitionedCall": 0}


class Writes:
    """Finds out whether operations may change the resources that they take.

    Args:
        library: the functions of a graph definition.
    """

    def __init__(self, library: Any):
        self._functions = {function.signature.name: function for function in library.function}
        self._known: dict[tuple[str, int], bool] = {}

    def node(self, node: Any, index: int) -> bool:
        """Whether an operation may change a resource.

        Args:
            node: of a graph definition or of a function.
            index: of the resource among its inputs.
        """
        if node.op in READ_ONLY:
            return False
        called = [
            function.name
            for attribute in node.attr.values()
            for function in (attribute.func, *attribute.list.func)
            if function.name in self._functions
        ]
        if node.op not in _FIRST_INPUT or not called:
            return True
        first = _FIRST_INPUT[node.op]
        return any(self._function(name, index - first) for name in called)

    def _function(self, name: str, index: int) -> bool:
        """Whether a function may change the resource that is its argument of this index."""
        key = (name, index)
        if key not in self._known:
            self._known[key] = False  # for a function that calls itself
            definition = self._functions[name]
            aliases = {definition.signature.input_arg[index].name}
            self._known[key] = any(
                self._in_body(node, position, aliases)
                for node in definition.node_def  # in the order of their making
                for position, edge in enumerate(node.input)
                if edge.split(":")[0] in aliases
            )
        return self._known[key]

    def _in_body(self, node: Any, position: int, aliases: set[str]) -> bool:
        if node.op == "Identity":
            aliases.add(node.name)
        return self.node(node, position)
