"""The variables that a model's own train_step uses, wherever they are kept."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api


def variables_of(graph: Any) -> list[tf.Variable]:
    """The variables that a traced function reads or changes, in the order of its captures.

    Those of closures, of plain attributes and of Keras's global seed generator are among them.
    """
    places = {id(outer): place for place, (outer, _) in enumerate(graph.captures)}
    there = [variable for variable in graph.variables if id(variable.handle) in places]
    return sorted(there, key=lambda variable: places[id(variable.handle)])


def uses_any(used: Iterable[tf.Variable], variables: Iterable) -> bool:
    """Whether any of some variables, Keras's or TensorFlow's, is among those that were used."""
    ids = {id(variable) for variable in used}
    return any(id(part) in ids for v in variables for part in _parts_of(v))


def besides(used: Iterable[tf.Variable], known: Iterable[Iterable]) -> list[tf.Variable]:
    """The variables that were used and are none of the known ones, in their order."""
    seen = {id(part) for variables in known for v in variables for part in _parts_of(v)}
    return [v for v in used if id(v) not in seen]


def with_copies(named: dict[str, Any]) -> dict[str, Any]:
    """Variables by name, with each replica's copy of those that no optimizer keeps alike.

    Replicas that follow Keras's rules have metrics and moving statistics of their own.
    """
    apart = {}
    for name, variable in named.items():
        alike = name.startswith("optimizer/") or variable.trainable
        copies = [variable] if alike else copies_of(variable)
        for i, copy in enumerate(copies):
            apart[f"{name}@replica_{i}" if i else name] = copy
    return apart


def copies_of(variable: tf.Variable) -> list[tf.Variable]:
    """A mirrored variable's copies on this process's replicas, or any other variable itself."""
    return list(getattr(variable, "values", None) or (variable,))


def _parts_of(variable: Any) -> list[tf.Variable]:
    """A variable as a trace sees it: itself, and its copies on this process's replicas."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return [value, *copies_of(value)]


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
