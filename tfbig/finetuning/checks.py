"""Checks of fine_tune's arguments before a model is loaded."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.finetuning.recipe import Recipe

_WRITE = "write model_fn(loaded_model) or model_fn(loaded_model, params)"
_RESOLVED_LATE = ("accuracy", "acc", "crossentropy", "ce")  # depend on the loss


def checked_model_fn(model_fn: Any) -> Callable[..., keras.Model] | None:
    """Wraps fine_tune's model_fn to a function of (loaded model, params) with checked result.

    Args:
        model_fn: the function of the user, or None.

    Raises:
        UserError: it is not a function, or does not take the loaded model.
    """
    if model_fn is None:
        return None
    if not callable(model_fn) or isinstance(model_fn, keras.Model):
        raise UserError(
            f"fine_tune(model_fn={model_fn!r}): expected a function model_fn(loaded_model) that "
            "returns a compiled keras.Model."
        )
    parameters = inspect.signature(model_fn).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = [p for p in parameters if p.kind in (*positional, p.VAR_POSITIONAL)]
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    others = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind is p.KEYWORD_ONLY and p.name != "params"
    ]
    by_name = any(p.name == "params" and p is not takes[0] for p in parameters) if takes else False
    if (
        not takes
        or len(required) > 2
        or others
        or (len(required) == 2 and by_name) > ("params" in required)
    ):
        asked = ", ".join(required + others) or "no argument"
        raise UserError(f"fine_tune: model_fn asks for {asked}; {_WRITE}.")

    @functools.wraps(model_fn)
    def checked(loaded: keras.Model, params: Any) -> keras.Model:
        if by_name:
            model = model_fn(loaded, params=params)
        else:
            model = model_fn(loaded, params) if len(required) == 2 else model_fn(loaded)
        if not isinstance(model, keras.Model):
            what = "None" if model is None else f"a {type(model).__name__}"
            raise UserError(
                f"fine_tune: model_fn returned {what}; return a compiled keras.Model that is built "
                "from the loaded one."
            )
        updates_itself = _private_api.overrides(model, "train_step")
        if not model.compiled or (model.optimizer is None and not updates_itself):
            raise UserError(
                "fine_tune: model_fn returned a model that is not compiled; call "
                'model.compile("adam", loss=…) before it is returned.'
            )
        return model

    return checked


def check_names(recipe: Recipe) -> None:
    """Checks the names of losses and metrics.

    Raises:
        UserError: Keras has no loss or metric with this name.
    """
    for field, get in (("loss", keras.losses.get), ("metrics", keras.metrics.get)):
        for name in keras.tree.flatten(getattr(recipe, field)):
            if not isinstance(name, str) or (field == "metrics" and name in _RESOLVED_LATE):
                continue
            try:
                get(name)
            except ValueError as error:
                raise UserError(
                    f"Recipe.{field}={name!r}: Keras has none of this name; write one of "
                    f"keras.{'losses' if field == 'loss' else field}, such as "
                    f"{('mean_squared_error' if field == 'loss' else 'accuracy')!r}."
                ) from error
