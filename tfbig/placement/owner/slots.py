"""Slots of which each replica holds a slice, and what saves and loads them as wholes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.placement.owner.layout import Piece
from tfbig.placement.placement import Placement
from tfbig.programs.apart import run_apart


class Exchange:
    """Collects ranges of what replicas hold slices of, and hands them out.

    Traced once for all slices, however many there are.

    Args:
        placement: where the replicas are.
    """

    def __init__(self, placement: Placement):
        self._placement = placement
        self._gather = tf.function(
            lambda *arguments: placement.run(self._gathered, arguments),
            autograph=False,
            reduce_retracing=True,  # slices have many sizes
        )
        self._cut = tf.function(
            lambda *arguments: placement.run_each(self._replaced, arguments),
            autograph=False,
            reduce_retracing=True,
        )

    def read(self, variable: tf.Variable, start: int, stop: int) -> np.ndarray:
        """A range of the whole, from wherever it is: all processes call this together."""
        bounds = (tf.constant(at, tf.int64) for at in (start, stop))
        return self._gather(self._values(variable), *bounds).numpy()

    def write(self, variable: tf.Variable, start: int, values: np.ndarray) -> None:
        """Sets a range of the whole; each replica keeps what is in its slice."""
        values = tf.convert_to_tensor(values, variable.dtype)
        new = self._cut(self._values(variable), values, tf.constant(start, tf.int64))
        for local, value in zip(self._locals(variable), new, strict=True):
            local.assign(value)

    def _locals(self, variable: tf.Variable) -> tuple[tf.Variable, ...]:
        return self._placement.strategy.experimental_local_results(variable)  # type: ignore[attr-defined]

    def _values(self, variable: tf.Variable) -> Any:
        """The slices that this process holds, as an argument of `run`."""
        held, first = self._locals(variable), self._placement.first_replica
        return self._placement.strategy.experimental_distribute_values_from_function(  # type: ignore[attr-defined]
            lambda context: held[context.replica_id_in_sync_group - first].read_value()
        )

    def _gathered(self, held: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        begin, end = self._inside(held, start), self._inside(held, stop)
        return tf.distribute.get_replica_context().all_gather(held[begin:end], axis=0)

    def _replaced(self, held: tf.Tensor, values: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        stop = start + tf.size(values, tf.int64)
        begin, end = self._inside(held, start), self._inside(held, stop)
        skipped = self._begin(held) + begin - start
        new = [held[:begin], values[skipped : skipped + end - begin], held[end:]]
        return tf.concat(new, 0)

    def _begin(self, held: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._placement.replica(), tf.int64) * tf.size(held, tf.int64)

    def _inside(self, held: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(place - self._begin(held), 0, tf.size(held, tf.int64))


class PieceSlot:
    """One slot of a piece: a variable whose value on each replica is that replica's slice.

    Args:
        placement: where.
        exchange: between its replicas.
        piece: how it is cut.
        initial: returns the first value of a slice, a tensor of shape [piece.per].
        name: the variable's.
    """

    def __init__(
        self, placement: Placement, exchange: Exchange, piece: Piece, initial: Callable, name: str
    ):
        self._exchange = exchange

        def make() -> tf.Variable:
            with placement.scope():
                return tf.Variable(
                    initial,
                    trainable=False,
                    name=name,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )

        self.variable = run_apart(make)
        self.bytes = piece.per * self.variable.dtype.size

    def read(self, start: int, stop: int) -> np.ndarray:
        """A part of the whole piece, from wherever it is: all processes call this together."""
        return self._exchange.read(self.variable, start, stop)

    def write(self, start: int, values: np.ndarray) -> None:
        """Sets a part of the whole piece; each replica keeps what is in its slice."""
        self._exchange.write(self.variable, start, values)


class Part(NamedTuple):
    """What a variable has of a piece's slot: `size` elements from `start` on."""

    slot: PieceSlot
    start: int
    size: int


class SlicedSlot:
    """One variable's parts of PieceSlots, with the face of a whole variable.

    `numpy` gathers it: where replicas are in several processes, all of them call it for the same
    slots in the same order. `assign` takes the whole value.

    Args:
        parts: in their order.
        shape: the variable's.
    """

    def __init__(self, parts: list[Part], shape: tf.TensorShape):
        self.parts, self.shape = parts, tf.TensorShape(shape)
        self.dtype = parts[0].slot.variable.dtype

    def numpy(self) -> np.ndarray:
        """The whole value."""
        values = [slot.read(start, start + size) for slot, start, size in self.parts]
        flat = values[0] if len(values) == 1 else np.concatenate(values)
        return flat.reshape(tuple(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it is a new array in any case
        return self.numpy().astype(dtype or self.dtype.as_numpy_dtype, copy=False)

    def assign(self, value: Any) -> None:
        """Sets the whole value."""
        flat, at = np.reshape(value, -1), 0
        for slot, start, size in self.parts:
            slot.write(start, flat[at : at + size])
            at += size
