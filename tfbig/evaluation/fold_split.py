"""Assigns each example to the fold that tests it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfbig.data import splitting
from tfbig.data.columns import column_reader, labels_of, read_values
from tfbig.data.source import Source
from tfbig.errors import UserError


def fold_numbers(
    source: Source, folds: int, *, stratify: Any, groups: Any, seed: int
) -> np.ndarray:
    """Assigns examples to folds with `tfbig.data.splitting.folds`.

    Args:
        source: the examples.
        folds: the number of folds.
        stratify: the classes to balance: True for the labels, the name of a column, a function
            that returns the class of each example of a batch, or an array [len(source)]; None for
            no balancing.
        groups: the groups to keep together, given like `stratify`; True is not accepted.
        seed: the seed of the split.

    Returns:
        An integer array [len(source)]: for each example, the number of the fold that tests it,
        from 1; 0 for a bad record, which is left out.

    Raises:
        UserError: an argument has an invalid value, or a fold would be empty.
    """
    if stratify is False:
        stratify = None
    if groups is True or groups is False:
        raise UserError(
            f"groups={groups}: expected an array, the name of a column or a function of a batch."
        )
    try:
        return _assign(source, folds, {"stratify": stratify, "groups": groups}, seed)
    except UserError as error:
        raise UserError(f"cross_validate: {error}") from error


def _assign(source: Source, folds: int, arguments: dict[str, Any], seed: int) -> np.ndarray:
    functions = {n: _batch_function(source, n, v) for n, v in arguments.items() if v is not None}
    read = {name: function for name, function in functions.items() if function is not None}
    examples, values = np.arange(len(source)), {}
    if read:
        examples, values = read_values(source, read)
    for name in functions:
        if name not in read:
            values[name] = _check_array(name, arguments[name], len(source))[examples]
    splits = splitting.folds(
        len(examples),
        folds,
        labels=values.get("stratify"),
        groups=values.get("groups"),
        seed=seed,
    )
    fold = np.zeros(len(source), np.min_scalar_type(folds))
    for number, split in enumerate(splits, 1):
        if not len(split.test):
            raise UserError(
                f"fold {number} of {folds} has no example to test on: there are too few groups, or "
                "their sizes differ too much; use fewer folds."
            )
        fold[examples[split.test]] = number
    return fold


def _batch_function(source: Source, name: str, value: Any) -> Callable[[Any], np.ndarray] | None:
    """Returns the function that reads the values from a batch; None if `value` is an array."""
    if value is True:
        return labels_of
    if isinstance(value, str):
        return column_reader(source, value, name)
    if not callable(value):
        return None

    def checked(batch: Any) -> np.ndarray:
        values = np.asarray(value(batch))
        size = len(np.asarray(_first_leaf(batch)))
        if values.shape[:1] != (size,):
            raise UserError(
                f"the function {name} returned an array of shape {list(values.shape)} for a batch "
                f"of {size} examples; return one value per example, shape [{size}]."
            )
        return values

    return checked


def _first_leaf(batch: Any) -> Any:
    while isinstance(batch, tuple | list | dict):
        batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
    return batch


def _check_array(name: str, value: Any, length: int) -> np.ndarray:
    array = np.asarray(value)
    if not array.ndim or len(array) != length:
        received = f"of shape {list(array.shape)}" if array.ndim else f"{value!r}"
        raise UserError(
            f"{name} is {received}, but the source has {length} examples; pass an array with one "
            "value per example, the name of a column, or a function of a batch."
        )
    return array
