"""What the loop reads from: stacks of global batches, at a position that can be kept."""

from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data.order.distribution import share_of

_SHORT_PASS = 256  # steps: of more, one that is not compiled is too small a part to matter


class Stack(NamedTuple):
    """Consecutive global batches, or one worker's shares of them, stacked for one call of the loop.

    Attributes:
        values: structure of arrays or tensors of shape [K, rows, …]; rows past a batch's count
            and batches past `steps` hold anything finite, and a share without an example holds
            one of another share, which counts for nothing.
        counts: int32 array of shape [K], how many examples of each batch are in the stack.
        steps: how many of the K batches are there; 0 at the end of a pass.
        sizes: int32 array of shape [K], how many examples each global batch has.
        offsets: int32 array of shape [K], the place in the global batch of the first one here.
        missing: int32 array of shape [K], how many examples a worker's share lacks because their
            records are bad; only that worker knows, so `sizes` and `offsets` still count them.
    """

    values: Any
    counts: np.ndarray
    steps: int
    sizes: np.ndarray
    offsets: np.ndarray
    missing: np.ndarray


class Share(NamedTuple):
    """What a stack has of one global batch: all of it, or one worker's share.

    Attributes:
        count: int32 scalar, how many of the batch's examples.
        size: int32 scalar, how many the whole global batch has.
        offset: int32 scalar, the index of the first one in the global batch.
    """

    count: Any
    size: Any
    offset: Any


def cut_out(stack: Stack, rows: int, worker: int, workers: int) -> Stack:
    """One worker's share of a stack that holds whole batches.

    Args:
        stack: as a feed reads it that knows of no workers.
        rows: of the share.
        worker, workers: whose share, of how many.
    """
    start, stop = share_of(stack.sizes, worker, workers)
    rows = start[:, None] + np.arange(rows)
    rows = np.clip(rows, 0, np.maximum(stack.sizes - 1, 0)[:, None])  # all of them hold examples
    values = tf.nest.map_structure(
        lambda whole: tf.gather(whole, rows.astype(np.int32), batch_dims=1), stack.values
    )
    return stack._replace(values=values, counts=stop - start, offsets=start)


class Feed:
    """Reads global batches in order and many at once.

    Attributes:
        element_spec: structure of tf.TensorSpec of one global batch, [None, …] each.
        batch_size: how many examples a full global batch has.
        worker, workers: whose share of every global batch is read, of how many.
        rows: the largest share, rounded up so that it can be cut into equal parts.
        full: full batches can be cut into equal parts, with no row left over on any worker.
        capacity: K, the largest number of batches in a stack.
        steps_per_pass: batches in one pass over the data, or None: not known.
        odd: how many examples the last batch of each pass has, if it is smaller than the others
            and comes so often that a step of its own is worth compiling; or None. A Dataset tells
            it when such a batch has been pulled.
        static: all dimensions but the first are known; otherwise stacks hold one batch.
        repeats: the data start anew at their end by themselves.
        least: the smallest number of batches that are worth a call of the loop.
        remedy: what to do when the step waits for data.
    """

    element_spec: Any
    batch_size: int
    worker: int = 0
    workers: int = 1
    rows: int
    full: bool
    capacity: int
    steps_per_pass: int | None
    odd: int | None = None
    static: bool = True
    repeats: bool = False
    least: int = 1
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

    def examples(self, stack: Stack, place: int) -> Any:
        """The examples of the batch at a place of a stack, arrays; None: they are not here."""
        count = max(stack.counts[place], 1)  # a share without an example holds another's
        return tf.nest.map_structure(lambda a: np.asarray(a[place])[:count], stack.values)

    def ended_after(self, stack: Stack, steps: int) -> None:
        """Tells that of a stack that was pulled, no more than `steps` batches were there."""
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


def odd_for(last: int, batch_size: int, steps_per_pass: int) -> int | None:
    """`Feed.odd`, from the size of the last batch of a pass."""
    return last if 0 < last < batch_size and steps_per_pass <= _SHORT_PASS else None


def capacity_for(element_spec: Any, rows: int, steps_per_loop: int | Literal["auto"]) -> int:
    """How many batches a stack may hold: what was asked for, or 32 MiB and at most 100."""
    if steps_per_loop != "auto":
        return steps_per_loop
    size = sum(
        (spec.shape[1:].num_elements() or 1) * spec.dtype.size * rows
        for spec in tf.nest.flatten(element_spec)
    )
    return int(np.clip(32 * 2**20 // max(size, 1), 1, 100))
