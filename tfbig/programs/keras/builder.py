"""Builds a compiled Keras model in the current scope from the user's model or model_fn."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.keras.checks import check_model
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt

log = logging.getLogger("tfbig")


class KerasBuilder:
    """Builds a compiled keras.Model, or rebuilds one that exists already.

    A model that existed before belongs to the caller and stays unchanged. This holds for a model
    that is passed, for one that a function returns, and for layers of it such as a pretrained
    backbone.

    Args:
        model_fn: `model_fn()` or `model_fn(params)`, or a compiled keras.Model.
        params: passed to a function that takes an argument.
        precision: the Keras dtype policy of the model.
    """

    def __init__(self, model_fn: Callable | keras.Model, params: Any, precision: str):
        self._model_fn, self._params, self._precision = model_fn, params, precision

    def build(self, owns: Callable[[Any], bool]) -> keras.Model:
        """Returns a compiled model whose variables belong to the current scope.

        Args:
            owns: whether a tf.Variable was created in this scope.

        Raises:
            UserError: there is no compiled model, or it cannot be rebuilt in this scope.
        """
        model = self._model_fn
        if not isinstance(model, keras.Model):
            before = referenced_layers(model)
            model = self._call()
            is_new = not uses_any_layer(model, before)
            if is_new and all(owns(v.value) for v in model.variables):
                return model
        check_model(model, custom_steps=True)
        if self._precision != "float32" and model.dtype_policy.name != self._precision:
            raise UserError(
                f"precision={self._precision!r}, but the model {model.name!r} was built in "
                f"{model.dtype_policy.name}; pass a function that builds it."
            )
        try:
            return rebuilt(model)
        except CANNOT_BE_REBUILT as error:
            if all(owns(v.value) for v in model.variables):
                log.warning(
                    "the model %r that was passed is trained itself, and changes: %s cannot be "
                    "rebuilt from its get_config (%s); pass a function that builds and compiles it",
                    model.name,
                    type(model).__name__,
                    _reason(error),
                )
                return model
            raise UserError(
                f"{type(model).__name__} cannot be rebuilt on the replicas' devices from its "
                f"get_config ({_reason(error)}); pass a function that builds and compiles it."
            ) from error

    def _call(self) -> keras.Model:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._precision)
        try:
            arguments, keywords = self._arguments()
            model = self._model_fn(*arguments, **keywords)
        finally:
            keras.config.set_dtype_policy(policy)
        if not isinstance(model, keras.Model):
            raise UserError(
                f"model_fn returned {_shown(model)}; return a compiled keras.Model, or write an "
                "estimator-style model_fn(features, labels, mode) that returns an EstimatorSpec."
            )
        return model

    def _arguments(self) -> tuple[list, dict]:
        parameters = inspect.signature(self._model_fn).parameters.values()
        required = [
            p
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        by_name = any(p.name == "params" and p.kind != p.POSITIONAL_ONLY for p in parameters)
        if len(required) > 1 or (by_name and required and required[0].name != "params"):
            raise UserError(
                f"model_fn requires {', '.join(p.name for p in required)}; a Keras builder is "
                "model_fn() or model_fn(params), an estimator-style one has features as its "
                "first argument."
            )
        if by_name:
            return [], {"params": self._params}
        return ([self._params] if required else []), {}


def _reason(error: Exception) -> str:
    """The first sentence of Keras's message, which may contain an example or a whole config."""
    text = " ".join(str(error).split())
    text = text.split("Error encountered during deserialization: ")[-1]
    return text.split(". ")[0] or type(error).__name__


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def referenced_layers(function: Callable) -> set[int]:
    """The ids of the layers that a function refers to before it is called.

    They are in its closure, in the globals that it names, in its bound object or in its defaults,
    also within lists, tuples and dicts. A function may provide the set as its attribute
    `referenced_layers`.
    """
    if hasattr(function, "referenced_layers"):
        return function.referenced_layers
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


def uses_any_layer(model: keras.Model, ids: set[int]) -> bool:
    """Whether a model is or contains a layer with one of these ids."""
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
