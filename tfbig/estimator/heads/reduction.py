"""How the weighted losses of the examples become the loss of a batch."""

import enum
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError


class Reduction(enum.Enum):
    """What the sum of the weighted losses is divided by."""

    SUM = "sum"
    BATCH_SIZE = "sum_over_batch_size"
    WEIGHTS = "weighted_mean"
    NONZERO_WEIGHTS = "weighted_sum_by_nonzero_weights"


# The values of tf.losses.Reduction, tf.compat.v1.losses.Reduction and keras.losses.
_NAMES = {
    "sum": Reduction.SUM,
    "weighted_sum": Reduction.SUM,
    "auto": Reduction.BATCH_SIZE,
    "sum_over_batch_size": Reduction.BATCH_SIZE,
    "mean": Reduction.BATCH_SIZE,
    "weighted_sum_over_batch_size": Reduction.BATCH_SIZE,
    "weighted_mean": Reduction.WEIGHTS,
    "mean_with_sample_weight": Reduction.WEIGHTS,
    "weighted_sum_by_nonzero_weights": Reduction.NONZERO_WEIGHTS,
}


def checked_reduction(value: Any) -> Reduction:
    """Returns the Reduction for a head's `loss_reduction`.

    Args:
        value: of tf.losses.Reduction or tf.compat.v1.losses.Reduction, or a Reduction.

    Raises:
        UserError: it is none of them, or "none".
    """
    if isinstance(value, Reduction):
        return value
    if value not in _NAMES:
        raise UserError(
            f"Invalid loss_reduction: {value}; pass tf.losses.Reduction.SUM or "
            "SUM_OVER_BATCH_SIZE, or another one of tf.compat.v1.losses.Reduction but NONE."
        )
    return _NAMES[value]


def denominator(losses: tf.Tensor, weights: tf.Tensor | None, reduction: Reduction) -> Any:
    """What the sum of the weighted losses is divided by: 1, or a float32 scalar.

    Args:
        losses: of each example, before weighting: [n, …, d].
        weights: of the same rank as the losses; None: all are 1.
        reduction: which one.
    """
    if reduction is Reduction.SUM:
        return 1
    if weights is None or reduction is Reduction.BATCH_SIZE:
        return tf.cast(tf.size(losses), tf.float32)
    each = tf.broadcast_to(weights, tf.shape(losses))
    if reduction is Reduction.WEIGHTS:
        return tf.reduce_sum(each)
    return tf.cast(tf.math.count_nonzero(each), tf.float32)


def reduced(losses: tf.Tensor, weights: tf.Tensor | None, reduction: Reduction) -> tf.Tensor:
    """The loss of a batch, a scalar; 0 where the denominator is 0."""
    total = tf.reduce_sum(losses if weights is None else losses * weights)
    divided = denominator(losses, weights, reduction)
    return total if isinstance(divided, int) else tf.math.divide_no_nan(total, divided)
