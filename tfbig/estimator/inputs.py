"""Input functions for arrays and DataFrames, as in tf.compat.v1.estimator.inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.arguments import check_count
from tfbig.errors import UserError

_QUEUE = {"queue_capacity": 1000, "num_threads": 1}


def numpy_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int = 1000,
    num_threads: int = 1,
) -> Callable[[], tf.data.Dataset]:
    """Returns an input_fn that reads NumPy arrays.

    Example: `numpy_input_fn({"x": images}, labels, batch_size=64, num_epochs=None, shuffle=True)`

    Args:
        x: an array or a dict of arrays, each of shape [n, …].
        y: the labels, an array or a dict of arrays of shape [n, …]; None for no labels.
        batch_size: the global batch size. A batch may span the end of an epoch.
        num_epochs: the number of passes over the data; None repeats without end.
        shuffle: whether to shuffle all examples, differently in each epoch; required.
        queue_capacity, num_threads: only the defaults are accepted; there is no queue.

    Raises:
        UserError: the lengths differ, or an argument has an invalid value.
    """
    _check("numpy_input_fn", batch_size, num_epochs, shuffle, queue_capacity, num_threads)
    features, labels = _arrays("x", x), None if y is None else _arrays("y", y)
    data = (features,) if labels is None else (features, labels)
    return _input_fn("numpy_input_fn", data, batch_size, num_epochs, shuffle)


def pandas_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int = 1000,
    num_threads: int = 1,
    target_column: str = "target",
) -> Callable[[], tf.data.Dataset]:
    """Returns an input_fn that reads the columns of a pandas DataFrame.

    Example: `pandas_input_fn(frame[["age", "hours"]], frame["income"], shuffle=False)`

    Args:
        x: a DataFrame; the features are a dict of its columns, each of shape [n].
        y: a Series, or a DataFrame for a dict of labels; its index must equal that of x.
        batch_size, num_epochs, shuffle, queue_capacity, num_threads: as for `numpy_input_fn`.
        target_column: the name of the labels; x must not have such a column if y is a Series.

    Raises:
        UserError: the indices differ, or an argument has an invalid value.
    """
    _check("pandas_input_fn", batch_size, num_epochs, shuffle, queue_capacity, num_threads)
    if not hasattr(x, "columns") or not hasattr(x, "index"):
        raise UserError(f"pandas_input_fn(x={type(x).__name__}): expected a pandas.DataFrame.")
    data: tuple = ({str(name): _column(x[name]) for name in x.columns},)
    if y is not None:
        if not hasattr(y, "index") or not np.array_equal(x.index, y.index):
            raise UserError(
                "pandas_input_fn: Index for x and y are mismatched; pass rows of one DataFrame."
            )
        if hasattr(y, "columns"):
            data += ({str(name): _column(y[name]) for name in y.columns},)
        else:
            if target_column in x.columns:
                raise UserError(
                    f"pandas_input_fn: x has a column {target_column!r}, the name of the labels; "
                    "pass another target_column."
                )
            data += (_column(y),)
    return _input_fn("pandas_input_fn", data, batch_size, num_epochs, shuffle)


def _input_fn(
    name: str, data: tuple, batch_size: int, epochs: int | None, shuffle: bool | None
) -> Callable[[], tf.data.Dataset]:
    lengths = {len(array) for array in tf.nest.flatten(data)}
    if len(lengths) != 1 or 0 in lengths:
        raise UserError(
            f"{name}: Length of tensors in x and y is mismatched; all must have the same number "
            f"of examples, at least one. They have {sorted(lengths)}."
        )
    (length,) = lengths

    def input_fn() -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices(data if len(data) > 1 else data[0])
        if shuffle:
            dataset = dataset.shuffle(length)
        return dataset.repeat(epochs).batch(batch_size)

    return input_fn


def _arrays(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if not value:
            raise UserError(f"numpy_input_fn({name}={{}}): {name} cannot be an empty dict.")
        return {str(key): np.asarray(array) for key, array in value.items()}
    return np.asarray(value)


def _column(series: Any) -> np.ndarray:
    array = np.asarray(series)
    return array.astype(str) if array.dtype.kind in "OT" else array


def _check(
    name: str, batch_size: int, num_epochs: Any, shuffle: Any, queue_capacity: Any, num_threads: Any
) -> None:
    check_count(f"{name}: batch_size", batch_size)
    check_count(f"{name}: num_epochs", num_epochs)
    if not isinstance(shuffle, bool):
        raise UserError(
            f"{name}(shuffle={shuffle!r}): shuffle must be provided and explicitly set as boolean; "
            "write shuffle=True for training."
        )
    given = {"queue_capacity": queue_capacity, "num_threads": num_threads}
    for key, value in given.items():
        if value != _QUEUE[key]:
            raise UserError(
                f"{name}({key}={value!r}) is not supported: there is no queue, and all "
                "examples are shuffled; leave it out."
            )
