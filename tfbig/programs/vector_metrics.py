"""Metrics with a value for each class, such as F1Score(average=None), in a run's figures.

Inside of a run, and in its JSON files, such a metric is a list under its name. Keras's callbacks
and a run's results have an array there, as with `fit`; what takes one number a name has name_0,
name_1, ….
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_fit_gives(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with arrays, float32, for lists, as Keras's `fit` and `evaluate` give them."""
    return {n: np.float32(v) if isinstance(v, list) else v for n, v in figures.items()}


def as_numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with one number a name: name_0, name_1, … for a list or an array.

    Example: `as_numbers({"loss": 0.5, "f1": [0.25, 1.0]})` is
    `{"loss": 0.5, "f1_0": 0.25, "f1_1": 1.0}`.
    """
    numbers: dict[str, Any] = {}
    for name, value in figures.items():
        if np.ndim(value):
            flat = np.ravel(value).tolist()
            numbers.update({f"{name}_{number}": each for number, each in enumerate(flat)})
        else:
            numbers[name] = value
    return numbers
