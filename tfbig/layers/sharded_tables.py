"""Tables whose rows are sharded over several variables: row i is row i // n of variable i % n.

Adjacent rows are in different shards. So the low ids of a vocabulary that is sorted by frequency
do not all need the same parameter server.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api

_now = threading.local()  # each replica is traced in its own thread
_MARK = "tfbig_shard"  # an attribute, because variables of Keras and TensorFlow are unhashable


class Shard(NamedTuple):
    """The part of a table that a variable holds.

    Attributes:
        table: an object that identifies the table of the shard.
        index, count: index of the shard, and number of shards.
        rows: rows of the whole table.
    """

    table: Any
    index: int  # type: ignore[assignment]  # tuple.index is not wanted
    count: int  # type: ignore[assignment]
    rows: int


@contextlib.contextmanager
def parameter_server_scope(count: int) -> Iterator[None]:
    """Sets the number of parameter servers for the layers that are built in the block.

    Needed outside of a strategy's scope: a model_fn is traced without one, and a placement may
    assign devices to variables itself.
    """
    before = getattr(_now, "servers", None)
    _now.servers = count
    try:
        yield
    finally:
        _now.servers = before


def number_of_servers() -> int:
    """The number of parameter servers for variables that are created now; 0: none."""
    servers = getattr(_now, "servers", None)
    if servers is not None:
        return servers
    return _private_api.parameter_server_count(tf.distribute.get_strategy())


def mark_shard(variable: Any, shard: Shard) -> None:
    """Marks a variable (of Keras or TensorFlow) as a shard, whose table is never read whole."""
    setattr(variable, _MARK, shard)


def shard_of(variable: Any) -> Shard | None:
    """The Shard of a marked variable, or None."""
    return getattr(variable, _MARK, None)


def marked_value(variable: keras.Variable) -> Any:
    """The tf.Variable of a Keras variable, marked as a shard if the Keras variable is."""
    value, shard = variable.value, shard_of(variable)
    if shard is not None:
        mark_shard(value, shard)
    return value


def rows_of_shard(rows: int, index: int, count: int) -> int:
    """The number of rows of a table in a shard."""
    return -(-(rows - index) // count)


def reshard(
    read: Callable[[int], np.ndarray], held: int, rows: int, count: int
) -> Iterator[np.ndarray]:
    """Converts the shards of a table to another number of shards.

    Only one old and one new shard are in memory at a time.

    Args:
        read: returns the value of the old shard with an index, an array of shape [its rows, …].
        held: number of old shards.
        rows: rows of the whole table.
        count: number of new shards.

    Yields:
        The new shards, in order.
    """
    for index in range(count):
        if held == count:
            yield np.asarray(read(index))
            continue
        new = None
        for old in range(held):
            value = np.asarray(read(old))
            if new is None:
                new = np.empty((rows_of_shard(rows, index, count), *value.shape[1:]), value.dtype)
            ids = np.arange(old, rows, held)
            selected = ids % count == index
            new[ids[selected] // count] = value[selected]
        yield new


def reshard_values(values: Sequence, variables: Sequence, copies: Sequence) -> list:
    """Converts the values of a model's variables to those of a copy with other shards.

    Args:
        values: arrays, one for each of `variables`.
        variables, copies: all variables of the model and of its copy, in the same order except
            for the number of shards.
    """
    left, new = list(zip(values, variables, strict=True)), []
    copies = list(copies)
    while copies and left:
        old, new_shard = shard_of(left[0][1]), shard_of(copies[0])
        if (
            old is None
            or new_shard is None
            or old.index
            or new_shard.index
            or old.rows != new_shard.rows
        ):
            new.append(left.pop(0)[0])
            copies.pop(0)
            continue
        shards = [value for value, _ in left[: old.count]]
        new += reshard(shards.__getitem__, old.count, old.rows, new_shard.count)
        del left[: old.count], copies[: new_shard.count]
    return new + [value for value, _ in left]


def is_trained_shard(variable: Any) -> bool:
    """Whether a variable is a shard that an optimizer would update."""
    trained = variable.trainable if isinstance(variable, keras.Variable) else True
    return shard_of(variable) is not None and trained
