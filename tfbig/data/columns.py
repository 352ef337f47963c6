"""Values of every example of a Source: its label, a column, or the result of a function."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfbig.data.bad_records import read_good
from tfbig.data.source import Source
from tfbig.errors import UserError

_CHUNK = 8192


def read_values(
    source: Source, functions: Mapping[str, Callable[[Any], np.ndarray]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads a source once and computes values of all examples that are not skipped as bad.

    Args:
        source: the source, which is read in chunks.
        functions: by name; each takes a batch and returns an array [n].

    Returns:
        The numbers of these examples, int64 [n], and the values by name, [n] each.

    Raises:
        UserError: no example can be read.
        BadRecords: some records are bad, and the source does not skip them.
    """
    numbers, values = [], {name: [] for name in functions}
    for start in range(0, len(source), _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, len(source)))
        batch, kept = read_good(source, indices)
        if batch is not None:
            numbers.append(indices[kept])
            for name, function in functions.items():
                values[name].append(function(batch))
    if not numbers:
        raise UserError(f"{type(source).__name__} has no example that can be read.")
    return np.concatenate(numbers), {name: np.concatenate(all_) for name, all_ in values.items()}


def labels_of(batch: Any) -> np.ndarray:
    """The labels of a batch of (features, labels, …).

    Raises:
        UserError: the batch has no labels, or more than one per example.
    """
    if not isinstance(batch, tuple) or len(batch) < 2:
        raise UserError("the source has no labels; its examples are features only.")
    labels = batch[1]
    if isinstance(labels, (dict, tuple, list)):
        names = ", ".join(map(repr, labels)) if isinstance(labels, dict) else f"{len(labels)}"
        key = repr(next(iter(labels))) if isinstance(labels, dict) else 0
        raise UserError(
            f"the labels belong to several outputs ({names}); pass a function that returns "
            f"one class per example, such as lambda batch: batch[1][{key}]."
        )
    if np.ndim(labels) > 1 and np.shape(labels)[1:] != (1,):
        raise UserError(
            f"the labels have the shape {[len(labels), *np.shape(labels)[1:]]}; pass a function "
            "that returns one class per example, such as lambda batch: "
            "batch[1].argmax(axis=-1) for one-hot labels."
        )
    return labels


def column_reader(source: Source, name: str, asked: str) -> Callable[[Any], np.ndarray]:
    """Returns a function that extracts a column from a batch.

    Args:
        source: a source whose features are a dict of columns.
        name: name of the column.
        asked: name of the argument with the column's name, for error messages.

    Raises:
        UserError: there is no such column.
    """
    spec = source.element_spec
    features = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(features, Mapping) or name not in features:
        columns = "the features are not a dict of columns"
        if isinstance(features, Mapping):
            columns = f"the columns are {', '.join(features)}"
        raise UserError(f"{asked}={name!r}: there is no such column; {columns}.")
    return lambda batch: (batch[0] if isinstance(batch, tuple) else batch)[name]


def without_column(column: str, batch: Any) -> Any:
    """Removes a column from the features of a batch."""
    features, *rest = batch if isinstance(batch, tuple) else (batch,)
    features = {name: values for name, values in features.items() if name != column}
    return (features, *rest) if isinstance(batch, tuple) else features
