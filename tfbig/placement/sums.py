"""What the parts of a global batch add up to."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Sums(NamedTuple):
    """What the parts of a global batch add up to.

    Attributes:
        gradients: for each group of loss terms, one tensor a trainable variable, or None; slices of
            rows for the tables of a ShardedEmbedding.
        totals, denominators: one scalar a group.
        moving: new values of the float state, each times its part's share of the examples.
        metrics: what the parts add to the metrics' variables (one part: their new values).
        examples: how many, in a list of one.
        other: new values of the state that is no float (seeds), equal in all parts.
        carried: new values of the state that one part alone can have (`Program.sequential_state`).
        held: what the metrics that need whole batches are updated with; each tensor's rows are
            those of the parts, in their order.
    """

    gradients: list[list]
    totals: list[tf.Tensor]
    denominators: list[tf.Tensor]
    moving: list[tf.Tensor]
    metrics: list[tf.Tensor]
    examples: list[tf.Tensor]
    other: list[tf.Tensor]
    carried: Sequence[tf.Tensor] = ()
    held: Sequence[tf.Tensor] = ()

    @property
    def all_gradients(self) -> list:
        """The gradients of all groups, in one list."""
        return [gradient for group in self.gradients for gradient in group]


def flat_sums(sums: Sums) -> list[tf.Tensor]:
    """All tensors that are sums, in one list."""
    summed = sums._replace(carried=(), held=())
    return [t for t in tf.nest.flatten(summed) if t is not None]
