"""Whether configs tell all that objects were made with: a config may forget an argument."""

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.programs.observing import leaves

_TRUSTED = ("keras", "keras_hub", "tfbig")
_OF_LAYERS = {"self", "name", "dtype", "trainable", "input_shape", "batch_size", "input_dim"}
_PLAIN = (type(None), bool, int, float, str, bytes)
# Lists of layers in an order of Keras's own, and what changes as a layer is built and trained.
_INTERNAL = {"_auto_config", "_functional", "_inbound_nodes", "_layers", "_operations", "_tracker"}
_PASSING = {"built", "compiled", "input_spec", "stop_training", "supports_masking"}
# Parts of a config that a copy may have otherwise.
_RENEWED = {"name", "dtype", "trainable", "seed", "lora_rank", "lora_alpha"}


def check_config(thing: Any) -> None:
    """Raises a TypeError where an object's config lacks arguments of its class's `__init__`.

    The config that Keras makes up for a metric or a model would have default values for them.
    One that another class has written tells what is in it, whatever that class's `__init__` takes.
    """
    kind = type(thing)
    teller = next(cls for cls in kind.__mro__ if "get_config" in vars(cls))
    known = {"self", "name", "dtype", "trainable", *inspect.signature(teller.__init__).parameters}
    own = [name for name in _named(kind) if name not in known]
    if own and teller.__module__.split(".")[0] != "keras":
        told = thing.get_config()
        own = [name for name in own if name not in told]
    _refuse(kind, own)


def check_copies(thing: Any, copy: Any) -> None:
    """Raises a TypeError where a copy, or what is in it, was made with other arguments.

    Looks at classes that the user wrote: layers, and the constraints, initializers, regularizers
    and losses that layers have as attributes. Only an argument that a config does not tell, and
    that is found to differ, counts: others may have been left at their defaults.

    Args:
        thing, copy: layers; the copy was made from the config, and built if the layer was.
    """
    seen: set[int] = set()
    left = [(thing, copy)]
    while left:
        original, twin = left.pop()
        if id(original) in seen or type(original) is not type(twin):
            continue
        seen.add(id(original))
        if not _is_trusted(type(original)):
            _check_copy(original, twin)
        if isinstance(original, keras.layers.Layer):
            left += _inside(original, twin)


def _check_copy(original: Any, twin: Any) -> None:
    kind = type(original)
    given, again = (_private_api.init_arguments(each) for each in (original, twin))
    names = _named(kind)
    if given is not None and again is not None:
        names += [n for n in given if n not in names and n not in _taken_by_keras(kind)]
    differing = [n for n in names if n not in _OF_LAYERS and _differs(n, original, twin)]
    if differing:
        try:
            told = original.get_config()
        except NotImplementedError:
            return  # an outer layer's __init__ has made it, from arguments of that layer
        _refuse(kind, [name for name in differing if name not in told])


def _refuse(kind: type, names: list[str]) -> None:
    if names:
        raise TypeError(f"{kind.__name__} needs a get_config that tells {', '.join(names)}")


def _differs(name: str, original: Any, twin: Any) -> bool:
    """Whether an argument of two objects' `__init__` was not the same, as far as can be seen."""
    for attribute in (name, f"_{name}"):
        if attribute in vars(original) and attribute in vars(twin):
            return not _same(vars(original)[attribute], vars(twin)[attribute])
    given, again = (_private_api.init_arguments(each) for each in (original, twin))
    if given is not None and again is not None:
        return given.get(name) != again.get(name)
    here, there = _visible(original), _visible(twin)
    return any(not _same(here[key], there[key]) for key in here.keys() & there.keys())


def _visible(thing: Any) -> dict[str, Any]:
    """What an object holds that its arguments may have gone into, by attribute."""
    names = [n for n in vars(thing) if n not in _PASSING and n != "seed"]
    if isinstance(thing, keras.layers.Layer):
        names = [n for n in names if not n.startswith("_")]
    return {key: leaf for n in names for key, leaf in leaves(n, vars(thing)[n])}


def _same(one: Any, other: Any) -> bool:
    """Whether two values agree; of what cannot be compared, whether the classes do."""
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
        return _lasting(one.get_config()) == _lasting(other.get_config())
    return True


def _lasting(config: Any) -> Any:
    """A config without what a copy may have otherwise."""
    if isinstance(config, dict):
        return {k: _lasting(value) for k, value in config.items() if k not in _RENEWED}
    return [_lasting(value) for value in config] if isinstance(config, (list, tuple)) else config


def _inside(original: keras.layers.Layer, twin: keras.layers.Layer) -> Iterator[tuple[Any, Any]]:
    """Pairs of what the two layers hold that has a config."""
    found = []
    for layer in (original, twin):
        held = {k: v for k, v in vars(layer).items() if k not in _INTERNAL}
        if isinstance(layer, keras.Model):
            held["layers"] = list(layer.layers)
        found.append(dict(leaves("", held)))
    for key, value in found[0].items():
        if key in found[1] and hasattr(value, "get_config") and not inspect.isclass(value):
            yield value, found[1][key]


def _named(kind: type) -> list[str]:
    """The names of the arguments of a class's `__init__`."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _taken_by_keras(kind: type) -> set[str]:
    """The arguments that Keras's own classes take of which a class is made."""
    classes = [cls for cls in kind.__mro__ if _is_trusted(cls) and "__init__" in vars(cls)]
    return _OF_LAYERS.union({"autocast"}, *map(_named, classes))


def _is_trusted(kind: type) -> bool:
    return kind.__module__.split(".")[0] in _TRUSTED
