"""Matches the features of input_fn with the inputs of a Keras model by name.

Keras flattens a dict of features in sorted order and pairs it with the inputs by position. One
surplus entry would feed each input the column of another.
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

# Keras's warning when it pairs inputs by position.
_BY_POSITION = re.compile(r"The structure of `inputs` .*\nExpected: (.*)\nReceived: inputs=(.*)")

_LOGGED: weakref.WeakKeyDictionary[keras.Model, set[str]] = weakref.WeakKeyDictionary()


def match_features(model: keras.Model, features: Any, log_unused: bool = True) -> Any:
    """Selects the features that a model takes, and arranges them like its inputs, by name.

    This applies to a dict of features and a functional or Sequential model. Entries that no input
    is named after are dropped, and logged once per model. A subclassed model gets the features
    unchanged.

    Args:
        model: its inputs are a dict, a list or a single tensor.
        features: structure of tensors, or of tensor specs, as input_fn yields it.
        log_unused: log the dropped entries. False if a copy of the model has logged them.

    Returns:
        Features in the structure of the model's inputs if both have names; else `features`.

    Raises:
        UserError: an input has no entry of its name.

    Example:

        model(match_features(model, {"age": ages, "id": ids}))  # the model has an Input "age"
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
            raise _missing_features(model, missing, wanted, given, path)
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
    if surplus and log_unused:
        _log_unused(model, surplus)
    return taken


def _graph_of(model: Any) -> keras.Model | None:
    """The graph of layers that processes the model's inputs, or None for a subclassed model."""
    graph = _private_api.functional_graph(model)
    if graph is not None:
        return graph
    # A Sequential model whose first layer takes a dict has no graph itself.
    plain = isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call
    return _graph_of(model.layers[0]) if plain and model.layers else None


def _by_name(inputs: Any) -> dict | None:
    """The inputs of a model by name, or None if they have no names."""
    if isinstance(inputs, keras.KerasTensor):
        return {inputs.name: inputs}
    if isinstance(inputs, dict):
        return inputs
    named = all(isinstance(each, keras.KerasTensor) for each in inputs)
    return {each.name: each for each in inputs} if named else None  # Keras refuses the others


def _missing_features(
    model: keras.Model, missing: list, wanted: dict, features: dict, path: tuple[str, ...]
) -> UserError:
    where = f"features[{'/'.join(path)!r}]" if path else "features"
    those = "an entry" if len(missing) == 1 else "entries"
    advice = f"give {those} of that name, or name the keras.Input after what is given"
    if len(wanted) == 1 and len(features) == 1:
        advice += ", or give the tensor itself instead of a dict"
    return UserError(
        f"{where} of input_fn lack {_names(missing)}, which the model {model.name!r} takes; they "
        f"have {_names(features)}, and the model's inputs are {_names(wanted)}. To fix this, "
        f"{advice}."
    )


def _names(keys: Any) -> str:
    return ", ".join(map(repr, keys)) or "no entries"


def _log_unused(model: keras.Model, surplus: list[str]) -> None:
    """Logs unused entries, each once per model."""
    new = [name for name in surplus if name not in _LOGGED.setdefault(model, set())]
    if not new:
        return
    _LOGGED[model].update(new)
    log.warning(
        "features of input_fn have %s, which no input of the model %r is named after; not used",
        _names(new),
        model.name,
    )


@contextlib.contextmanager
def refuse_positional_matches() -> Iterator[None]:
    """Raises an error where user code calls a functional model with a dict of wrong names.

    Enter it around the trace of a model_fn, of a train_step or of the `call` of a subclassed
    model. tfbig does not change what this code passes, but Keras would pair it with the inputs by
    position.

    Raises:
        UserError: the names in a dict differ from those of the model's inputs.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message="The structure of `inputs`")
        yield
    for warning in caught:
        found = _BY_POSITION.match(str(warning.message))
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
    """The keys of a dict in Keras's message, or [] if it shows no dict."""
    try:
        value = ast.literal_eval(shown)
    except (SyntaxError, ValueError):
        return []
    return list(value) if isinstance(value, dict) else []
