"""The position of a layer's inputs in training: the step, and the rows of the global batch."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class BatchPosition(NamedTuple):
    """The position of the rows with which a layer is called.

    Attributes:
        step: int64 scalar, the global step, counted from 0.
        first: int32 scalar, the index of the first row in its global batch; the others follow.
        rows: int32 scalar, number of rows in the inputs of the model; None: as in those of the
            layer.
    """

    step: tf.Tensor
    first: tf.Tensor
    rows: tf.Tensor | None = None

    def first_of(self, rows: Any) -> tf.Tensor:
        """The index of the first row of a layer's inputs.

        A layer may have several rows per example, after a reshape to [batch * heads, …].
        """
        if self.rows is None:
            return self.first
        return self.first * (rows // tf.maximum(self.rows, 1))


_now = threading.local()  # each replica is traced in its own thread


@contextlib.contextmanager
def batch_position_scope(
    step: tf.Tensor, first: tf.Tensor, rows: tf.Tensor | None = None
) -> Iterator[None]:
    """Sets the position of the inputs for the layers that are called in the block."""
    before = current_position()
    _now.position = BatchPosition(step, first, rows)
    try:
        yield
    finally:
        _now.position = before


def current_position() -> BatchPosition | None:
    """The position that the training loop has set, or None."""
    return getattr(_now, "position", None)
