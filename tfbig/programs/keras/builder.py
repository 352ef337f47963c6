"""From what a user gives as a Keras model_fn to a compiled model in the present scope."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import keras

from tfbig.errors import UserError
from tfbig.programs.keras.checks import check_model
from tfbig.programs.keras.held_models import held_layers, layers_among
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt

log = logging.getLogger("tfbig")


class KerasBuilder:
    """Builds a compiled keras.Model, or rebuilds one that is there already.

    A model that was there before is the caller's, and stays as it is, whether it is given or a
    function returns it, or layers of it, such as a pretrained backbone.

    Args:
        model_fn: `model_fn()` or `model_fn(params)`, or a compiled keras.Model.
        params: handed to a function that takes an argument.
        precision: the Keras dtype policy to build under.
    """

    def __init__(self, model_fn: Callable | keras.Model, params: Any, precision: str):
        self._model_fn, self._params, self._precision = model_fn, params, precision

    def build(self, owns: Callable[[Any], bool]) -> keras.Model:
        """Returns a compiled model whose variables are the present scope's.

        Args:
            owns: tells whether a tf.Variable was made in the scope.

        Raises:
            UserError: there is no compiled model, or it cannot be made again in this scope.
        """
        model = self._model_fn
        if not isinstance(model, keras.Model):
            before = held_layers(model)
            model = self._call()
            made = not layers_among(model, before)
            if made and all(owns(v.value) for v in model.variables):
                return model
        check_model(model, own_steps=True)
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
                    "the model %r that was given is trained itself, and changes: %s cannot be made "
                    "again from its get_config (%s); pass a function that builds and compiles it",
                    model.name,
                    type(model).__name__,
                    _reason(error),
                )
                return model
            raise UserError(
                f"{type(model).__name__} cannot be made again on the replicas' devices from its "
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
                f"model_fn asks for {', '.join(p.name for p in required)}; a Keras builder is "
                "model_fn() or model_fn(params), an estimator-style one has features as its "
                "first argument."
            )
        if by_name:
            return [], {"params": self._params}
        return ([self._params] if required else []), {}


def _reason(error: Exception) -> str:
    """The first sentence of what Keras says, which comes with an example or a whole config."""
    text = " ".join(str(error).split())
    text = text.split("Error encountered during deserialization: ")[-1]
    return text.split(". ")[0] or type(error).__name__


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
