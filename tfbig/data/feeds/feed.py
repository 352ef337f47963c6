"""The interface through which the loop reads data: stacks of batches, at a position to save."""

from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data.order.distribution import worker_share

_SHORT_PASS = 256  # in longer passes, one uncompiled step per pass does not matter


class Stack(NamedTuple):
    """Consecutive global batches, or one worker's shares of them, stacked for one call of the loop.

    Attributes:
        values: structure of arrays or tensors of shape [K, rows, …]. Rows beyond a batch's count
            and batches beyond `steps` are padding with finite values. A share without examples
            holds one example of another share, which has no effect.
        counts: int32 array of shape [K], the number of examples of each batch in this stack.
        steps: the number of valid batches, at most K; 0 at the end of a pass.
        sizes: int32 array of shape [K], the number of examples in each global batch.
        offsets: int32 array of shape [K], the position of the first example of this stack in its
            global batch.
        missing: int32 array of shape [K], the number of examples that a worker's share lacks
            because their records are bad. Only that worker knows it, so `sizes` and `offsets`
            include these examples.
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


def slice_for_worker(stack: Stack, rows: int, worker: int, workers: int) -> Stack:
    """Extracts one worker's share from a stack of whole batches.

    Args:
        stack: whole batches, from a feed with one worker.
        rows: rows of the share.
        worker, workers: index of the share, and the number of shares.
    """
    start, stop = worker_share(stack.sizes, worker, workers)
    rows = start[:, None] + np.arange(rows)
    rows = np.clip(rows, 0, np.maximum(stack.sizes - 1, 0)[:, None])  # padding repeats an example
    values = tf.nest.map_structure(
        lambda whole: tf.gather(whole, rows.astype(np.int32), batch_dims=1), stack.values
    )
    return stack._replace(values=values, counts=stop - start, offsets=start)


class Feed:
    """Reads global batches in order, several at once.

    Attributes:
        element_spec: structure of tf.TensorSpec of one global batch, [None, …] each.
        batch_size: examples in a full global batch.
        worker, workers: index of the share of every global batch that is read, and the number of
            shares.
        rows: size of the largest share, rounded up to a multiple of the number of equal parts.
        full: whether full batches divide into equal parts without padding, on every worker.
        capacity: K, the largest number of batches in a stack.
        steps_per_pass: batches in one pass over the data; None: not known.
        tail_size: examples in the last batch of each pass, if it is smaller than the others and
            occurs so often that a step of its own is worth compiling; else None. For a Dataset
            it is known once such a batch has been pulled.
        static: whether all dimensions but the first are known; if not, a stack has one batch.
        repeats: whether the data start again at their end without `next_pass`.
        min_batches_per_call: the smallest number of batches that is worth a call of the loop.
        remedy: advice for the user when the step waits for data.
    """

    element_spec: Any
    batch_size: int
    worker: int = 0
    workers: int = 1
    rows: int
    full: bool
    capacity: int
    steps_per_pass: int | None
    tail_size: int | None = None
    static: bool = True
    repeats: bool = False
    min_batches_per_call: int = 1
    remedy: str = ""

    def pull(self, step: int, steps: int, read_ahead: int = 0) -> Stack:
        """Reads up to `steps` batches.

        Args:
            step: number of the first batch, counted from the start of training.
            steps: number of batches, at most `capacity`.
            read_ahead: number of batches to read ahead for the next call. 0: do not read ahead,
                because the position is about to be saved.
        """
        raise NotImplementedError

    def examples(self, stack: Stack, index: int) -> Any:
        """The examples of batch `index` of a stack, as arrays; None: another task has them."""
        count = max(stack.counts[index], 1)  # a share without examples holds one of another share
        return tf.nest.map_structure(lambda a: np.asarray(a[index])[:count], stack.values)

    def mark_end(self, stack: Stack, steps: int) -> None:
        """Informs the feed that the data ended after `steps` batches of a stack that was pulled."""
        raise NotImplementedError

    def next_pass(self) -> None:
        """Starts a new pass over the data, after `pull` has returned 0 steps."""

    def trackables(self) -> dict:
        """Objects that save the position in a tf.train.Checkpoint; {}: the step determines it."""
        return {}

    def position(self) -> dict:
        """The position as a JSON value for the checkpoint."""
        return {}

    def restore_position(self, position: dict) -> None:
        """Restores a position returned by `position`; `trackables` are restored afterwards."""

    def restart(self, reason: str) -> None:
        """Restarts at the beginning, because the saved position cannot be restored."""

    def close(self) -> None:
        """Stops reading ahead."""


def rows_for(batch_size: int, multiple: int) -> int:
    """Rounds `batch_size` up to a multiple of the number of parts."""
    return -(-batch_size // multiple) * multiple


def tail_size_for(last: int, batch_size: int, steps_per_pass: int) -> int | None:
    """The value of `Feed.tail_size`, given the size of the last batch of a pass."""
    return last if 0 < last < batch_size and steps_per_pass <= _SHORT_PASS else None


def capacity_for(element_spec: Any, rows: int, steps_per_loop: int | Literal["auto"]) -> int:
    """The capacity of a stack in batches: `steps_per_loop`; "auto": 32 MiB, at most 100 batches."""
    if steps_per_loop != "auto":
        return steps_per_loop
    size = sum(
        (spec.shape[1:].num_elements() or 1) * spec.dtype.size * rows
        for spec in tf.nest.flatten(element_spec)
    )
    return int(np.clip(32 * 2**20 // max(size, 1), 1, 100))
