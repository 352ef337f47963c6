"""Where a layer's inputs stand in training: the step, and the place in the global batch."""

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf


class Place(NamedTuple):
    """What the rows that a layer is called with are.

    Attributes:
        step: int64 scalar, the global step, counted from 0.
        first: int32 scalar, the first row's place in its global batch; the others follow.
    """

    step: tf.Tensor
    first: tf.Tensor


_now = threading.local()  # replicas are traced in threads of their own


@contextlib.contextmanager
def placed(step: tf.Tensor, first: tf.Tensor) -> Iterator[None]:
    """Tells the layers called inside where their inputs stand."""
    before = here()
    _now.place = Place(step, first)
    try:
        yield
    finally:
        _now.place = before


def here() -> Place | None:
    """The place that the loop has told, or None: nobody has."""
    return getattr(_now, "place", None)
