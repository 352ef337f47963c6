"""Staleness: how many updates other workers made while one computed a gradient."""

from typing import Any, NamedTuple

import tensorflow as tf


class StalenessStats(NamedTuple):
    """The staleness of the steps of a call, numbers or scalar tensors.

    Attributes:
        total: the sum over the steps of how many updates each gradient was behind.
        most: the largest.
        dropped: how many gradients were too old, and were not applied.
    """

    total: Any
    most: Any
    dropped: Any

    def with_(self, other: "StalenessStats") -> "StalenessStats":
        """The staleness of the steps of both."""
        return StalenessStats(
            self.total + other.total,
            max(self.most, other.most),
            self.dropped + other.dropped,
        )


class Versions:
    """Counts updates, on a ps, to find how old each gradient is.

    Args:
        variable: int64 scalar on a ps; 0.
        most: how many updates a gradient may be behind; None: any number.
    """

    def __init__(self, variable: tf.Variable, most: int | None):
        self._variable, self.most = variable, most

    def now(self) -> tf.Tensor:
        """The number of updates so far; to be read before the weights are."""
        return self._variable.read_value()

    def arrive(self, before: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a gradient's staleness and whether it may update, once it has been computed.

        A gradient that may update is counted by the same operation that reads the count. So of two
        gradients at the same time only one can be the last that is fresh enough.

        Args:
            before: what `now` returned.
        """
        if self.most is None:
            staleness = self._count() - before
            return staleness, tf.constant(True)
        seen = self.now()
        number = tf.cond(seen - before <= self.most, self._count, lambda: seen)
        return number - before, number - before <= self.most

    def _count(self) -> tf.Tensor:
        """Adds one, and returns what was there before."""
        return tf.raw_ops.ResourceCountUpTo(
            resource=self._variable.handle, limit=tf.int64.max, T=tf.int64
        )
