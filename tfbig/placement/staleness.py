"""How many updates others have made while a worker computed a gradient, and what comes of it."""

from typing import Any, NamedTuple

import tensorflow as tf


class StalenessStats(NamedTuple):
    """The staleness of the steps of a call, numbers or scalar tensors.

    Attributes:
        total: the sum over the steps of how many updates each gradient was behind.
        most: the largest.
        dropped: how many gradients were too old, and no update.
    """

    total: Any
    most: Any
    dropped: Any

    def with_(self, other: "StalenessStats") -> "StalenessStats":
        """Of the steps of both."""
        return StalenessStats(
            self.total + other.total,
            max(self.most, other.most),
            self.dropped + other.dropped,
        )


class Versions:
    """Counts updates, on a ps, and tells each gradient how old it is.

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
        """Called when a gradient is there: its staleness, and whether it may update.

        One that may is counted in the same operation that tells its number, so that two that come
        at the same time never both take the last place that is left.

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
