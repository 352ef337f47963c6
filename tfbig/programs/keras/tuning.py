"""What fine-tuning asks of a model's training: rates by variable, layers that join later."""

import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras


class Tuning(NamedTuple):
    """How the variables of one model are trained.

    Attributes:
        rates: by a variable's path, what the optimizer's change of it is multiplied by; those
            left out: 1.
        unfreeze: (step, layers) in rising order of steps: the layers are frozen before the
            global step `step` and trained from there on.
    """

    rates: Mapping[str, float] = {}
    unfreeze: Sequence[tuple[int, Sequence[keras.layers.Layer]]] = ()


_of_models: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def attach(model: keras.Model, tuning: Tuning) -> None:
    """Has a model trained by `tuning` wherever it is trained by tfbig."""
    _of_models[model] = tuning


def tuning_of(model: keras.Model) -> Tuning:
    """What was attached to a model, or a Tuning that asks for nothing."""
    return _of_models.get(model, Tuning())
