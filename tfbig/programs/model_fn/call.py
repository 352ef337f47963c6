"""How a model_fn is called, and what it has to return."""

import inspect
from typing import Any

import keras

from tfbig.errors import UserError
from tfbig.programs.model_fn.spec import EstimatorSpec
from tfbig.programs.program import Batch

_ARGUMENTS = ("features", "labels", "mode", "params", "config")


def checked(spec: Any, mode: str) -> EstimatorSpec:
    """What a model_fn returned, if it is the spec of its mode."""
    if not isinstance(spec, EstimatorSpec):
        raise UserError(
            f"model_fn returned {type(spec).__name__} in mode {mode!r}; return "
            "tfbig.EstimatorSpec(mode, loss=…, optimizer=…)."
        )
    if spec.mode != mode:
        raise UserError(
            f"model_fn was called with mode {mode!r} and returned a spec for {spec.mode!r}; "
            "pass its mode argument on to EstimatorSpec."
        )
    return spec


def is_estimator_style(model_fn: Any) -> bool:
    """Whether a callable is a model_fn(features, …) and not a builder of a Keras model."""
    return (
        callable(model_fn)
        and not isinstance(model_fn, keras.Model)
        and "features" in inspect.signature(model_fn).parameters
    )


def check_arguments(model_fn: Any, params: Any = None) -> None:
    """Refuses a model_fn that asks for what it cannot be given, or not for what was given.

    Args:
        params: what it is to be handed, if anything.

    Raises:
        UserError: it names the arguments.
    """
    takes = inspect.signature(model_fn).parameters
    name = getattr(model_fn, "__name__", type(model_fn).__name__)
    unknown = [
        key
        for key, p in takes.items()
        if p.default is p.empty
        and key not in _ARGUMENTS
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if unknown:
        raise UserError(
            f"model_fn ({name}) has following not expected args: {unknown}; it can ask for "
            "features, labels, mode, params and config by name. Give other arguments a default, "
            "or use functools.partial."
        )
    if params is not None and "params" not in takes:
        raise UserError(
            f"model_fn ({name}) does not include params argument, but params ({params}) is "
            "passed to Estimator; write def model_fn(features, labels, mode, params), or leave "
            "params out."
        )


def call_model_fn(model_fn, batch: Batch, mode, params, config) -> EstimatorSpec:
    """Calls a model_fn with those of labels, mode, params and config that it asks for.

    Raises:
        UserError: it would not see all that input_fn gives, or asks for something else.
    """
    check_arguments(model_fn)
    given = {"labels": batch.labels, "mode": mode, "params": params, "config": config}
    takes = inspect.signature(model_fn).parameters
    if batch.labels is not None and "labels" not in takes:
        raise UserError(
            "model_fn does not take labels, but input_fn returns labels; write "
            "def model_fn(features, labels, mode), or have input_fn return features alone."
        )
    if batch.sample_weight is not None:
        raise UserError(
            "input_fn returns sample weights, which an estimator-style model_fn is not given; put "
            "them into the features, and the weighted loss into EstimatorSpec(loss=…)."
        )
    keywords = {k: v for k, v in given.items() if k in takes}
    return model_fn(features=batch.features, **keywords)
