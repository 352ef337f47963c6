"""Sample weights of a model with several outputs, in the structure of its outputs."""

from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError


def by_output(model: keras.Model, outputs: Any, weights: Any) -> Any:
    """Sample weights in the structure that the compiled losses look for: that of the outputs.

    Keras brings labels into it, whether they come as a dict by name or as a tuple by place, and
    fails over weights that came the same way.

    Args:
        model: compiled.
        outputs: what it returns, a structure of tensors.
        weights: one array for all outputs, or a dict or a tuple of one for each; or None.

    Raises:
        UserError: there are several weights, and not one for each output.
    """
    if not keras.tree.is_nested(weights) or _private_api.overrides(model, "compute_loss"):
        return weights
    names = _names(model, outputs)
    wanted = _with_loss(model, names)
    if isinstance(weights, dict):
        given = weights
        fits = set(wanted) <= set(weights) <= set(names)
    else:
        fits = len(weights) in (len(names), len(wanted))
        given = dict(zip(names if len(weights) == len(names) else wanted, weights, strict=False))
    if not fits:
        held = ", ".join(map(repr, weights)) if isinstance(weights, dict) else f"{len(weights)}"
        raise UserError(
            f"input_fn gives sample weights for several outputs ({held}), but the model "
            f"{model.name!r} has a loss for {', '.join(map(repr, wanted))}; give one array for "
            "all, or one for each of these (ones for an output that is not weighted)."
        )
    if not keras.tree.is_nested(outputs):
        return given[names[0]]
    if isinstance(outputs, dict):
        return dict(given)
    return keras.tree.pack_sequence_as(outputs, [given.get(name) for name in names])


def _names(model: keras.Model, outputs: Any) -> list:
    """The outputs' names, or their numbers where they have none, in the order of their places."""
    if isinstance(outputs, dict):
        return sorted(outputs)
    count = len(keras.tree.flatten(outputs))
    names = getattr(model, "output_names", None) or ()
    return list(names) if len(names) == count else list(range(count))


def _with_loss(model: keras.Model, names: list) -> list:
    loss = model.loss
    if isinstance(loss, dict):
        return [name for name in names if loss.get(name) is not None]
    if isinstance(loss, (list, tuple)) and len(loss) == len(names):
        return [name for name, each in zip(names, loss, strict=True) if each is not None]
    return names
