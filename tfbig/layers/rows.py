"""Tables whose rows are divided over several variables: row i is row i // n of variable i % n.

Neighbours lie on different shards, so ids that are frequent because they are low (a vocabulary
sorted by frequency) do not all ask the same parameter server.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api

_now = threading.local()  # replicas are traced in threads of their own
_MARK = "tfbig_shard"  # an attribute: neither Keras's nor TensorFlow's variables can be hashed


class Shard(NamedTuple):
    """What a variable holds of a table.

    Attributes:
        table: what the shards of one table have in common, by identity.
        index, count: the shard's number, and how many there are.
        rows: of the whole table.
    """

    table: Any
    index: int  # type: ignore[assignment]  # tuple.index is not wanted
    count: int  # type: ignore[assignment]
    rows: int


@contextlib.contextmanager
def for_servers(count: int) -> Iterator[None]:
    """Tells layers that are built inside how many parameter servers their variables come to.

    For where no strategy's scope is open: a model_fn is traced apart from it, and a placement may
    place variables by itself.
    """
    before = getattr(_now, "servers", None)
    _now.servers = count
    try:
        yield
    finally:
        _now.servers = before


def number_of_servers() -> int:
    """How many parameter servers the variables come to that are made now; 0: there are none."""
    told = getattr(_now, "servers", None)
    if told is not None:
        return told
    return _private_api.parameter_server_count(tf.distribute.get_strategy())


def mark(variable: Any, shard: Shard) -> None:
    """Says of a variable (of Keras or TensorFlow) that it is a shard, never to be read whole."""
    setattr(variable, _MARK, shard)


def shard_of(variable: Any) -> Shard | None:
    """What `mark` has said, or None."""
    return getattr(variable, _MARK, None)


def marked_value(variable: keras.Variable) -> Any:
    """The tf.Variable of a Keras variable, which says as well if it is a shard."""
    value, shard = variable.value, shard_of(variable)
    if shard is not None:
        mark(value, shard)
    return value


def rows_of_shard(rows: int, index: int, count: int) -> int:
    """How many of a table's rows a shard holds."""
    return -(-(rows - index) // count)


def recut(
    read: Callable[[int], np.ndarray], held: int, rows: int, count: int
) -> Iterator[np.ndarray]:
    """Cuts a table that is held in shards into another number of shards.

    No more than one shard of each kind is in memory at a time.

    Args:
        read: from a shard's number to its value, an array of shape [its rows, …].
        held: how many there are.
        rows: of the whole table.
        count: how many to cut it into.

    Yields:
        The new shards, in their order.
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
            here = ids % count == index
            new[ids[here] // count] = value[here]
        yield new


def recut_values(values: Sequence, variables: Sequence, copies: Sequence) -> list:
    """The values of a model's variables, for a copy of it whose tables have other shards.

    Args:
        values: arrays, one for each of `variables`.
        variables, copies: all variables of the model and of its copy, in the same order but for
            the number of shards.
    """
    left, new = list(zip(values, variables, strict=True)), []
    copies = list(copies)
    while copies and left:
        there, here = shard_of(left[0][1]), shard_of(copies[0])
        if there is None or here is None or there.index or here.index or there.rows != here.rows:
            new.append(left.pop(0)[0])
            copies.pop(0)
            continue
        shards = [value for value, _ in left[: there.count]]
        new += recut(shards.__getitem__, there.count, there.rows, here.count)
        del left[: there.count], copies[: here.count]
    return new + [value for value, _ in left]


def is_trained_shard(variable: Any) -> bool:
    """Whether a variable is a shard that an optimizer would update."""
    trained = variable.trainable if isinstance(variable, keras.Variable) else True
    return shard_of(variable) is not None and trained
