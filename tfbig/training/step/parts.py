"""How a global batch is cut into parts, one for each replica and micro-batch."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.data.feeds.feed import Share
from tfbig.programs.program import BatchPart, split_element


class Cut(NamedTuple):
    """How a share is cut: into `parts` parts; that of a full batch has `rows` rows."""

    parts: int
    rows: int

    @property
    def rows_per_part(self) -> int:
        """How many rows the largest part of a full batch has."""
        return -(-self.rows // self.parts)


def padded_part(element: Any, share: Share, part, cut: Cut, *, weigh: bool, keep_empty: bool):
    """A part of fixed size, so that it can be compiled; rows past the count weigh 0.

    They hold the share's first row, not zeros: a layer may have no finite value for a row of
    zeros (the mean of a sequence that is masked from its start on), and 0 times NaN is NaN.

    Args:
        element: what input_fn yields, tensors of shape [parts * rows_per_part, …].
        share: how many of its rows are examples.
        part: int32 scalar, the part's number among those of the share.
        weigh: give the program weights; False where the batch is known to be full.

    Returns:
        The BatchPart, and a float32 scalar: 1, for a part that counts.
    """
    del keep_empty
    rows, count = cut.rows_per_part, share.count
    start = part * rows
    real = start + tf.range(rows) < count

    def slice_for_worker(whole):
        piece = _rows(whole, start, rows) if cut.parts > 1 else whole
        if not weigh:
            return piece
        return tf.where(tf.reshape(real, [-1] + [1] * (piece.shape.rank - 1)), piece, whole[:1])

    weight, there = None, tf.constant(float(rows))
    if weigh:
        weight = tf.cast(real, tf.float32)
        there = tf.cast(tf.clip_by_value(count - start, 0, rows), tf.float32)
    element = tf.nest.map_structure(slice_for_worker, element)
    return BatchPart(*split_element(element), weight, there, share.offset + start), 1.0


def exact_part(element: Any, share: Share, part, cut: Cut, *, weigh: bool, keep_empty: bool):
    """A part of its true size, [n * p // P : n * (p + 1) // P] of a share of n examples.

    An empty part borrows one row, so that no layer sees a batch of 0, and counts 0; with
    `keep_empty` it stays empty, for layers that reduce over the replicas themselves.

    Returns:
        The BatchPart, and a float32 scalar: 1, or 0 for a borrowed row.
    """
    del weigh
    count = share.count
    start, stop = count * part // cut.parts, count * (part + 1) // cut.parts
    size = stop - start
    if not keep_empty:
        stop = tf.maximum(stop, start + 1)
    element = tf.nest.map_structure(lambda t: t[start:stop], element)
    batch = BatchPart(
        *split_element(element), None, tf.cast(size, tf.float32), share.offset + start
    )
    return batch, tf.cast(size > 0, tf.float32)


def _rows(tensor: tf.Tensor, start, rows: int) -> tf.Tensor:
    begin = tf.stack([start, *[0] * (tensor.shape.rank - 1)])
    piece = tf.slice(tensor, begin, [rows, *tensor.shape[1:]])
    return tf.ensure_shape(piece, [rows, *tensor.shape[1:]])
