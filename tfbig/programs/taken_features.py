"""Which of the features of input_fn a Keras model takes: those that its inputs are named after.

Keras flattens a dict of features in sorted order and pairs it with a model's inputs by place, so
one surplus entry would feed the inputs each other's columns.
"""

import ast
import contextlib
import logging
import re
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError

log = logging.getLogger("tfbig")

# What Keras warns of when it pairs inputs by place.
_BY_PLACE = re.compile(r"The structure of `inputs` .*\nExpected: (.*)\nReceived: inputs=(.*)")

_SAID: weakref.WeakKeyDictionary[keras.Model, set[str]] = weakref.WeakKeyDictionary()


def taken_features(model: keras.Model, features: Any, say: bool = True) -> Any:
    """The features that a model is called with, paired with its inputs by name.

    A dict is paired so with a model that has a graph of layers (functional or Sequential). Its
    surplus entries are left aside, and named in the log once for each model. A model with a `call`
    of its own gets the features as they are.

    Args:
        model: whose inputs are a dict, a list or a single tensor.
        features: structure of tensors, or of what describes them, as input_fn gives it.
        say: name surplus entries in the log; False: a copy of the model has done so.

    Returns:
        Features of the structure of the model's inputs, where both go by name; else those given.

    Raises:
        UserError: an input has no entry named after it.

    Example:

        model(taken_features(model, {"age": ages, "id": ids}))  # the model has an Input "age"
    """
    graph = _graph_of(model)
    if graph is None or not isinstance(features, dict):
        return features
    surplus: list[str] = []
    optional = {
        id(layer.output)
        for layer in graph.layers
        if isinstance(layer, keras.layers.InputLayer) and layer.optional
    }

    def paired(inputs: Any, given: Any, path: tuple[str, ...]) -> Any:
        wanted = _by_name(inputs)
        if wanted is None or not isinstance(given, dict):
            return given
        missing = [k for k, one in wanted.items() if k not in given and id(one) not in optional]
        if missing:
            raise _lacking(model, missing, wanted, given, path)
        surplus.extend("/".join((*path, str(key))) for key in given if key not in wanted)
        taken = {
            key: given.get(key)  # None: an optional input without an entry
            if isinstance(one, keras.KerasTensor)
            else paired(one, given[key], (*path, str(key)))
            for key, one in wanted.items()
        }
        if isinstance(inputs, dict):
            return taken
        return list(taken.values()) if isinstance(inputs, (list, tuple)) else taken[inputs.name]

    taken = paired(graph.input, features, ())
    if surplus and say:
        _say(model, surplus)
    return taken


def _graph_of(model: Any) -> keras.Model | None:
    """What a functional or Sequential model begins with that has a graph of layers, or None."""
    graph = _private_api.functional_graph(model)
    if graph is not None:
        return graph
    # A Sequential whose first layer takes a dict has no graph of its own.
    plain = isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call
    return _graph_of(model.layers[0]) if plain and model.layers else None


def _by_name(inputs: Any) -> dict | None:
    """A model's inputs, or parts of their structure, by name; None: they have no names."""
    if isinstance(inputs, keras.KerasTensor):
        return {inputs.name: inputs}
    if isinstance(inputs, dict):
        return inputs
    named = all(isinstance(each, keras.KerasTensor) for each in inputs)
    return {each.name: each for each in inputs} if named else None  # Keras refuses the others


def _lacking(
    model: keras.Model, missing: list, wanted: dict, features: dict, path: tuple[str, ...]
) -> UserError:
    where = f"features[{'/'.join(path)!r}]" if path else "features"
    those = "an entry" if len(missing) == 1 else "entries"
    advice = f"give {those} of that name, or name the keras.Input after what is given"
    if len(wanted) == 1 and len(features) == 1:
        advice += ", or give the tensor itself instead of a dict"
    return UserError(
        f"{where} of input_fn lack {_names(missing)}, which the model {model.name!r} takes; they "
        f"have {_names(features)}, and the model's inputs are {_names(wanted)}. To mend it, "
        f"{advice}."
    )


def _names(keys: Any) -> str:
    return ", ".join(map(repr, keys)) or "no entries"


def _say(model: keras.Model, surplus: list[str]) -> None:
    """Names the surplus entries in the log, those of a model once."""
    new = [name for name in surplus if name not in _SAID.setdefault(model, set())]
    if not new:
        return
    _SAID[model].update(new)
    log.warning(
        "features of input_fn have %s, which no input of the model %r is named after; left aside",
        _names(new),
        model.name,
    )


@contextlib.contextmanager
def refusing_pairs_by_place() -> Iterator[None]:
    """Held around a trace in which a user's code calls functional models with dicts.

    Such code is a model_fn, a train_step or the `call` of a subclassed model. What it passes is
    not for tfbig to change, but Keras would pair it with the inputs by place.

    Raises:
        UserError: a dict has other names than the model's inputs.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message="The structure of `inputs`")
        yield
    for warning in caught:
        found = _BY_PLACE.match(str(warning.message))
        expected, given = map(_keys, found.groups()) if found else ([], [])
        if expected and given and set(expected) != set(given):
            raise UserError(
                f"a model that takes a dict of {_names(expected)} is called with a dict of "
                f"{_names(sorted(given))}, which Keras pairs by place, so that inputs get each "
                "other's values. Call it with the entries that it takes: model({name: "
                f"features[name] for name in {tuple(expected)!r}}})."
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _keys(shown: str) -> list[str]:
    """The keys of a dict in Keras's message, or []: it is none."""
    try:
        value = ast.literal_eval(shown)
    except (SyntaxError, ValueError):
        return []
    return list(value) if isinstance(value, dict) else []
