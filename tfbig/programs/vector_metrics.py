"""Metrics with one value per class, such as F1Score(average=None).

Inside a run and in its JSON files, such a metric is a list under its name. Keras callbacks and
the results of a run have an array instead, as with `fit`. Where a name can have one number only,
the metric becomes name_0, name_1, ….
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def to_fit_logs(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces lists by float32 arrays, as in the logs of Keras's `fit` and `evaluate`."""
    return {n: np.float32(v) if isinstance(v, list) else v for n, v in figures.items()}


def numbers_of(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Lists the numbers of nested metrics, as one list for each name; leaves text out.

    Example: `numbers_of({"pair": (0.5, (1.0, 2.0)), "summary": b"…"})` is
    `{"pair": [0.5, 1.0, 2.0]}`.
    """
    numbers: dict[str, Any] = {}
    for name, value in figures.items():
        leaves = [np.asarray(leaf) for leaf in _leaves(value)]
        if any(leaf.dtype.kind not in "fiub" for leaf in leaves):
            continue
        alone = len(leaves) == 1 and not isinstance(value, (list, tuple, dict))
        flat = leaves[0] if alone else np.concatenate([np.ravel(leaf) for leaf in leaves])
        numbers[name] = flat.astype(float).tolist()
    return numbers


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value) for leaf in _leaves(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def to_scalars(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens lists and arrays to one number per name: name_0, name_1, ….

    Example: `to_scalars({"loss": 0.5, "f1": [0.25, 1.0]})` is
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
