"""Checks that a config contains all constructor arguments of a layer, metric or optimizer."""

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.programs.tracing import leaves

_TRUSTED = ("keras", "keras_hub", "tfbig")
_OF_LAYERS = {"self", "name", "dtype", "trainable", "input_shape", "batch_size", "input_dim"}
_PLAIN = (type(None), bool, int, float, str, bytes)
# Attributes with which Keras keeps track of layers, and those that change as a layer is built.
_INTERNAL = {"_auto_config", "_functional", "_inbound_nodes", "_layers", "_operations", "_tracker"}
_MUTABLE = {"built", "compiled", "input_spec", "stop_training", "supports_masking"}
# Entries of a config that may differ in a copy.
_MAY_DIFFER = {"name", "dtype", "trainable", "seed", "lora_rank", "lora_alpha"}


def check_config(thing: Any) -> None:
    """Raises a TypeError if an object's config lacks arguments of its class's `__init__`.

    Keras's default get_config of a metric or a model would give them default values. A get_config
    outside Keras is trusted in what it contains, whatever its class's `__init__` takes.
    """
    kind = type(thing)
    definer = next(cls for cls in kind.__mro__ if "get_config" in vars(cls))
    known = {"self", "name", "dtype", "trainable", *inspect.signature(definer.__init__).parameters}
    missing = [name for name in _argument_names(kind) if name not in known]
    if missing and definer.__module__.split(".")[0] != "keras":
        config = thing.get_config()
        missing = [name for name in missing if name not in config]
    _refuse(kind, missing)


def check_copies(thing: Any, copy: Any) -> None:
    """Raises a TypeError if a copy, or an object inside it, was created with other arguments.

    This checks classes of the user: layers, and the constraints, initializers, regularizers and
    losses in their attributes. Only an argument that is missing in the config and that visibly
    differs is an error, because others may have their default values.

    Args:
        thing, copy: layers. The copy was created from the config, and built if the layer was.
    """
    visited: set[int] = set()
    pending = [(thing, copy)]
    while pending:
        original, twin = pending.pop()
        if id(original) in visited or type(original) is not type(twin):
            continue
        visited.add(id(original))
        if not _is_trusted(type(original)):
            _check_copy(original, twin)
        if isinstance(original, keras.layers.Layer):
            pending += _configurable_attributes(original, twin)


def _check_copy(original: Any, twin: Any) -> None:
    kind = type(original)
    given, again = (_private_api.init_arguments(each) for each in (original, twin))
    names = _argument_names(kind)
    if given is not None and again is not None:
        names += [n for n in given if n not in names and n not in _arguments_of_keras(kind)]
    differing = [n for n in names if n not in _OF_LAYERS and _differs(n, original, twin)]
    if differing:
        try:
            config = original.get_config()
        except NotImplementedError:
            return  # the __init__ of an outer layer created it, from its own arguments
        _refuse(kind, [name for name in differing if name not in config])


def _refuse(kind: type, names: list[str]) -> None:
    if names:
        raise TypeError(f"{kind.__name__} needs a get_config that includes {', '.join(names)}")


def _differs(name: str, original: Any, twin: Any) -> bool:
    """Whether an argument of two objects' `__init__` visibly differs."""
    for attribute in (name, f"_{name}"):
        if attribute in vars(original) and attribute in vars(twin):
            return not _same(vars(original)[attribute], vars(twin)[attribute])
    given, again = (_private_api.init_arguments(each) for each in (original, twin))
    if given is not None and again is not None:
        return given.get(name) != again.get(name)
    here, there = _visible(original), _visible(twin)
    return any(not _same(here[key], there[key]) for key in here.keys() & there.keys())


def _visible(thing: Any) -> dict[str, Any]:
    """The attributes of an object that may contain its arguments, by name."""
    names = [n for n in vars(thing) if n not in _MUTABLE and n != "seed"]
    if isinstance(thing, keras.layers.Layer):
        names = [n for n in names if not n.startswith("_")]
    return {key: leaf for n in names for key, leaf in leaves(n, vars(thing)[n])}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal. Of objects that cannot be compared, the classes count."""
    if one is other:
        return True
    if isinstance(one, _PLAIN) or isinstance(other, _PLAIN):
        return one == other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        return np.array_equal(one, other)
    if inspect.isfunction(one):
        return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
    if _is_trusted(type(one)) and hasattr(one, "get_config"):
        return _comparable(one.get_config()) == _comparable(other.get_config())
    return True


def _comparable(config: Any) -> Any:
    """A config without the entries that may differ in a copy."""
    if isinstance(config, dict):
        return {k: _comparable(value) for k, value in config.items() if k not in _MAY_DIFFER}
    is_list = isinstance(config, (list, tuple))
    return [_comparable(value) for value in config] if is_list else config


def _configurable_attributes(
    original: keras.layers.Layer, twin: keras.layers.Layer
) -> Iterator[tuple[Any, Any]]:
    """Pairs of the objects with a get_config in the attributes of two layers."""
    found = []
    for layer in (original, twin):
        attributes = {k: v for k, v in vars(layer).items() if k not in _INTERNAL}
        if isinstance(layer, keras.Model):
            attributes["layers"] = list(layer.layers)
        found.append(dict(leaves("", attributes)))
    for key, value in found[0].items():
        if key in found[1] and hasattr(value, "get_config") and not inspect.isclass(value):
            yield value, found[1][key]


def _argument_names(kind: type) -> list[str]:
    """The names of the arguments of a class's `__init__`."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _arguments_of_keras(kind: type) -> set[str]:
    """The arguments of a class that its base classes in Keras take."""
    classes = [cls for cls in kind.__mro__ if _is_trusted(cls) and "__init__" in vars(cls)]
    return _OF_LAYERS.union({"autocast"}, *map(_argument_names, classes))


def _is_trusted(kind: type) -> bool:
    return kind.__module__.split(".")[0] in _TRUSTED
