"""How a model_fn is called, and what it has to return."""

import inspect
from typing import Any

import keras

from tfbig.errors import UserError
from tfbig.programs.program import Batch
from tfbig.programs.spec import EstimatorSpec


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


def call_model_fn(model_fn, batch: Batch, mode, params, config) -> EstimatorSpec:
    """Calls a model_fn with those of labels, mode, params and config that it asks for.

    Raises:
        UserError: it would not see all that input_fn gives, or asks for something else.
    """
    given = {"labels": batch.labels, "mode": mode, "params": params, "config": config}
    takes = inspect.signature(model_fn).parameters
    if batch.labels is not None and "labels" not in takes:
        raise UserError(
            "input_fn returns labels, but model_fn takes none; write "
            "def model_fn(features, labels, mode)."
        )
    if batch.sample_weight is not None:
        raise UserError(
            "input_fn returns sample weights, which an estimator-style model_fn is not given; put "
            "them into the features, and the weighted loss into EstimatorSpec(loss=…)."
        )
    for name, p in takes.items():
        known = name in ("features", *given) or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not known:
            raise UserError(
                f"model_fn asks for an argument {name!r}; it can ask for features, labels, mode, "
                "params and config by name. Give other arguments a default, or use "
                "functools.partial."
            )
    keywords = {k: v for k, v in given.items() if k in takes}
    return model_fn(features=batch.features, **keywords)
