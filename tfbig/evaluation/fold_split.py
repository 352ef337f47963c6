"""Which example is tested in which fold."""

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
    """Draws the folds by `tfbig.data.splitting.folds`.

    Args:
        source: the examples.
        folds: how many.
        stratify: None; True: the labels; the name of a column; a function of a batch that returns
            the class of each of its examples; or an array [len(source)].
        groups: the same but for True.
        seed: of the split.

    Returns:
        An array [len(source)]: the number of the fold that tests the example, counted from 1; 0
        for a bad record, which is left out.

    Raises:
        UserError: an argument cannot be used, or a fold would be empty.
    """
    if stratify is False:
        stratify = None
    if groups is True or groups is False:
        raise UserError(
            f"groups={groups}: expected an array, the name of a column or a function of a batch."
        )
    try:
        return _drawn(source, folds, {"stratify": stratify, "groups": groups}, seed)
    except UserError as error:
        raise UserError(f"cross_validate: {error}") from error


def _drawn(source: Source, folds: int, given: dict[str, Any], seed: int) -> np.ndarray:
    functions = {n: _function(source, n, v) for n, v in given.items() if v is not None}
    read = {name: function for name, function in functions.items() if function is not None}
    examples, values = np.arange(len(source)), {}
    if read:
        examples, values = read_values(source, read)
    for name in functions:
        if name not in read:
            values[name] = _checked(name, given[name], len(source))[examples]
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
                f"fold {number} of {folds} has no example to test on: the groups are too few or "
                "of too unequal sizes; write fewer folds."
            )
        fold[examples[split.test]] = number
    return fold


def _function(source: Source, name: str, value: Any) -> Callable[[Any], np.ndarray] | None:
    """What reads the values from batches; None for an array, which has them."""
    if value is True:
        return labels_of
    if isinstance(value, str):
        return column_reader(source, value, name)
    if not callable(value):
        return None

    def checked(batch: Any) -> np.ndarray:
        found = np.asarray(value(batch))
        size = len(np.asarray(_first_leaf(batch)))
        if found.shape[:1] != (size,):
            raise UserError(
                f"the function {name} returned an array of shape {list(found.shape)} for a batch "
                f"of {size} examples; return one value for each, shape [{size}]."
            )
        return found

    return checked


def _first_leaf(batch: Any) -> Any:
    while isinstance(batch, tuple | list | dict):
        batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
    return batch


def _checked(name: str, value: Any, length: int) -> np.ndarray:
    array = np.asarray(value)
    if not array.ndim or len(array) != length:
        received = f"of shape {list(array.shape)}" if array.ndim else f"{value!r}"
        raise UserError(
            f"{name} is {received}, and the source has {length} examples; give an array with one "
            "value for each, the name of a column, or a function of a batch."
        )
    return array
