"""The models that a function refers to, which it may return instead of building one."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfbig import _private_api


def held_layers(function: Callable) -> set[int]:
    """The ids of the layers that a function has at hand before it is called.

    Those are in its closure, among the globals that it names, bound to it, or its defaults; also
    in lists, tuples and dicts there. A function may have a set of them as its `held`.
    """
    if hasattr(function, "held"):
        return function.held
    values: list[Any] = []
    while isinstance(function, functools.partial):
        values += [*function.args, *function.keywords.values()]
        function = function.func
    bound = getattr(function, "__self__", None if inspect.isfunction(function) else function)
    values += [bound, *getattr(bound, "__dict__", {}).values()]
    function = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isfunction(function):
        found = inspect.getclosurevars(function)
        values += [*found.nonlocals.values(), *found.globals.values()]
        values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return {id(layer) for value in values for layer in _layers_of(value)}


def layers_among(model: keras.Model, ids: set[int]) -> bool:
    """Whether a model has one of these layers, or is one."""
    return any(id(layer) in ids for layer in (model, *_private_api.flatten_layers(model)))


def _layers_of(value: Any) -> list[keras.layers.Layer]:
    if isinstance(value, dict):
        value = list(value.values())
    found = value if isinstance(value, (list, tuple)) else [value]
    return [
        layer
        for each in found
        if isinstance(each, keras.layers.Layer)
        for layer in (each, *_private_api.flatten_layers(each))
    ]
