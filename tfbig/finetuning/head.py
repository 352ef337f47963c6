"""A new last layer for a trained model."""

import weakref

import keras

from tfbig.errors import UserError
from tfbig.finetuning.recipe import REGRESSION

_new_heads: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def with_head(model: keras.Model, head: int | str) -> keras.Model:
    """A model that shares all layers but the last with another, and ends in a new Dense layer.

    Args:
        model: Sequential or functional, with one output. If its last layer with weights is a
            Dense one that all of the output comes through, the new one takes its place; otherwise
            it comes on top of the output, averaged over places or times.
        head: the number of classes (logits), or "regression" for one number.

    Raises:
        UserError: the model has no such output, or no weights.
    """
    weighted = [layer for layer in model.layers if layer.weights]
    if len(getattr(model, "outputs", None) or ()) != 1 or not weighted:
        raise UserError(
            f"Recipe.head={head!r} needs a Sequential or functional model with one output and "
            f"weights; the model {model.name!r} is none. Build the new model in model_fn."
        )
    features = _before_last_dense(model, weighted[-1])
    if features is None:
        features = model.outputs[0]
    while len(features.shape) > 2:  # the mean over places, or times
        features = keras.ops.mean(features, axis=1)
    names = {layer.name for layer in model.layers}
    name = next(n for n in ("head", *(f"head_{i}" for i in range(1, 99))) if n not in names)
    units = 1 if head == REGRESSION else head
    several = len(model.inputs) > 1 or not isinstance(model, keras.Sequential)
    inputs = model.input if several else model.inputs[0]  # in the structure that it is called with
    # In float32 under a mixed precision policy too, as all outputs should be.
    dense = keras.layers.Dense(units, name=name, dtype="float32")
    made = keras.Model(inputs, dense(features))
    _new_heads[made] = head
    return made


def _before_last_dense(model: keras.Model, last: keras.layers.Layer):
    """What enters a model's last layer with weights if all of the output comes through it.

    None if it is no Dense layer, or if anything else reaches the output.
    """
    if not isinstance(last, keras.layers.Dense):
        return None
    made_by = {}
    for layer in model.layers:
        try:
            made_by[id(layer.output)] = layer
        except (AttributeError, ValueError):  # it was called several times
            continue
    tensor = model.outputs[0]
    while isinstance(tensor, keras.KerasTensor):
        layer = made_by.get(id(tensor))
        if layer is None or (layer.weights and layer is not last):
            return None
        if layer is last:
            return last.input
        tensor = layer.input
    return None


def new_head_of(model: keras.Model) -> int | str | None:
    """The head that `with_head` has given this model, or None."""
    return _new_heads.get(model)
