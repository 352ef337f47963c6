"""From what a user gives as a Keras model_fn to a compiled model in the present scope."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.keras_checks import check_model


class KerasBuilder:
    """Builds a compiled keras.Model, or rebuilds one that is there already.

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
            model = self._call()
            if all(owns(v.value) for v in model.variables):
                return model
        check_model(model)
        if self._precision != "float32" and model.dtype_policy.name != self._precision:
            raise UserError(
                f"precision={self._precision!r}, but the model {model.name!r} was built in "
                f"{model.dtype_policy.name}; pass a function that builds it."
            )
        if not has_config(model):
            if all(owns(v.value) for v in model.variables):
                return model
            raise UserError(
                f"{type(model).__name__} has no get_config, so it cannot be rebuilt on the "
                "replicas' devices; pass a function that builds and compiles it."
            )
        return rebuilt(model)

    def _call(self) -> keras.Model:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._precision)
        try:
            model = self._model_fn(*self._arguments())
        finally:
            keras.config.set_dtype_policy(policy)
        if not isinstance(model, keras.Model):
            raise UserError(
                f"model_fn returned {_shown(model)}; return a compiled keras.Model, or write an "
                "estimator-style model_fn(features, labels, mode) that returns an EstimatorSpec."
            )
        return model

    def _arguments(self) -> list:
        parameters = inspect.signature(self._model_fn).parameters.values()
        required = [
            p
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if len(required) > 1:
            raise UserError(
                f"model_fn asks for {', '.join(p.name for p in required)}; a Keras builder is "
                "model_fn() or model_fn(params), an estimator-style one has features as its "
                "first argument."
            )
        takes = [p for p in parameters if p.name == "params"]
        return [self._params] if required or takes else []


def rebuilt(model: keras.Model) -> keras.Model:
    """A new model from a compiled one's config, weights and compile options.

    The optimizer is new too: its slot variables start at zero.
    """
    copy = rebuilt_uncompiled(model)
    copy.compile(**_private_api.compile_arguments(model))
    return copy


def rebuilt_uncompiled(model: keras.Model) -> keras.Model:
    """A new model from another's config and weights."""
    copy = _from_config(model)
    if model.built and not copy.built:
        copy.build_from_config(model.get_build_config())
    if model.built:
        copy.set_weights(model.get_weights())
    return copy


def has_config(model: keras.Model) -> bool:
    """Whether a model can be made again from its config."""
    try:
        _from_config(model)
    except (NotImplementedError, TypeError, ValueError):
        return False
    return True


def _from_config(model: keras.Model) -> keras.Model:
    if isinstance(model, keras.Sequential) or _private_api.is_functional(model):
        return keras.models.clone_model(model)
    return type(model).from_config(model.get_config())


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
