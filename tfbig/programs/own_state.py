"""The variables that a model's own train_step uses, wherever they are kept."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api


class OwnState:
    """What a trace of a train_step has used.

    Attributes:
        graph: of the trace; it knows every variable that was read or changed in it, those of
            closures, of plain attributes and of Keras's global seed generator too.
    """

    graph: Any = None

    def uses(self, variables: Iterable) -> bool:
        """Whether any of these variables was used."""
        used = {id(variable) for variable in self.graph.variables}
        return any(id(part) in used for v in variables for part in parts_of(v))

    def besides(self, known: Iterable[Iterable]) -> list[tf.Variable]:
        """The variables that were used and are none of the known ones, in their order."""
        seen = {id(part) for variables in known for v in variables for part in parts_of(v)}
        return [v for v in self.graph.variables if id(v) not in seen]


def parts_of(variable: Any) -> list[tf.Variable]:
    """A variable as a trace sees it: itself, and its copies on this process's replicas."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return [value, *(getattr(value, "values", None) or ())]


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """The optimizers that are attributes of a model or its layers, in lists and dicts too."""
    found: dict[int, keras.optimizers.Optimizer] = {}
    for layer in _private_api.flatten_layers(model):
        for value in vars(layer).values():
            for leaf in _leaves(value):
                if isinstance(leaf, keras.optimizers.Optimizer):
                    found.setdefault(id(leaf), leaf)
    return list(found.values())


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return [value]
    return [leaf for item in value for leaf in _leaves(item)]
