"""What the loop reads from: stacks of global batches, at a position that can be kept."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Stack(NamedTuple):
    """Consecutive global batches, stacked for one call of the traced loop.

    Attributes:
        values: structure of arrays or tensors of shape [K, rows, …]; rows past a batch's count
            and batches past `steps` hold anything finite.
        counts: int32 array of shape [K], each batch's number of examples.
        steps: how many of the K batches are there; 0 at the end of a pass.
    """

    values: Any
    counts: np.ndarray
    steps: int


class Feed:
    """Reads global batches in order and many at once.

    Attributes:
        element_spec: structure of tf.TensorSpec of one global batch, [None, …] each.
        batch_size: how many examples a full global batch has.
        rows: batch_size, rounded up so that it can be cut into equal parts.
        capacity: K, the largest number of batches in a stack.
        steps_per_pass: batches in one pass over the data, or None: not known.
        static: all dimensions but the first are known; otherwise stacks hold one batch.
        remedy: what to do when the step waits for data.
    """

    element_spec: Any
    batch_size: int
    rows: int
    capacity: int
    steps_per_pass: int | None
    static: bool = True
    remedy: str = ""

    def pull(self, step: int, steps: int, then: int = 0) -> Stack:
        """Reads up to `steps` batches.

        Args:
            step: the number of the first, counted from the start of training.
            steps: at most `capacity`.
            then: how many the caller will want next; they may be read ahead. 0: do not read
                ahead, because the position is about to be kept.
        """
        raise NotImplementedError

    def next_pass(self) -> None:
        """Starts a new pass over the data, after `pull` has returned 0 steps."""

    def trackables(self) -> dict:
        """Objects for tf.train.Checkpoint that keep the position, or {}: the step tells it."""
        return {}

    def position(self) -> dict:
        """What a checkpoint keeps of the position as JSON."""
        return {}

    def go_to(self, position: dict) -> None:
        """Goes to where `position` was taken; `trackables` are restored afterwards."""

    def begin_again(self, reason: str) -> None:
        """Goes to the start, because the position that was kept cannot be restored."""

    def close(self) -> None:
        """Stops reading ahead."""


def rows_for(batch_size: int, multiple: int) -> int:
    """`batch_size`, rounded up to a multiple of the number of parts."""
    return -(-batch_size // multiple) * multiple


def capacity_for(element_spec: Any, rows: int, steps_per_loop: int | str) -> int:
    """How many batches a stack may hold: what was asked for, or 32 MiB and at most 100."""
    if steps_per_loop != "auto":
        return steps_per_loop
    size = sum(
        (spec.shape[1:].num_elements() or 1) * spec.dtype.size * rows
        for spec in tf.nest.flatten(element_spec)
    )
    return int(np.clip(32 * 2**20 // max(size, 1), 1, 100))
