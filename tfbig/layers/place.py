"""Where a layer's inputs stand in training: the step, and the place in the global batch."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class Place(NamedTuple):
    """What the rows that a layer is called with are.

    Attributes:
        step: int64 scalar, the global step, counted from 0.
        first: int32 scalar, the first row's place in its global batch; the others follow.
        rows: int32 scalar, how many rows the model is called with; None: as the layer is.
    """

    step: tf.Tensor
    first: tf.Tensor
    rows: tf.Tensor | None = None

    def first_of(self, rows: Any) -> tf.Tensor:
        """The place of the first of the rows that a layer inside the model is called with.

        They may be several for each example, side by side: a reshape to [batch * heads, …].
        """
        if self.rows is None:
            return self.first
        return self.first * (rows // tf.maximum(self.rows, 1))


_now = threading.local()  # replicas are traced in threads of their own


@contextlib.contextmanager
def placed(step: tf.Tensor, first: tf.Tensor, rows: tf.Tensor | None = None) -> Iterator[None]:
    """Tells the layers called inside where their inputs stand."""
    before = here()
    _now.place = Place(step, first, rows)
    try:
        yield
    finally:
        _now.place = before


def here() -> Place | None:
    """The place that the loop has told, or None: nobody has."""
    return getattr(_now, "place", None)
