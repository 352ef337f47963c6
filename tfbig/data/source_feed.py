"""Stacks of batches from a Source, in an order that is a function of (seed, step)."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.feed import Feed, Stack, capacity_for, rows_for
from tfbig.data.source import Source
from tfbig.errors import UserError

_CIPHER = 498247692  # what tf.random.experimental.index_shuffle puts before a seed


class SourceFeed(Feed):
    """Reads a Source batch by batch; the position is the step, so resuming is O(1).

    Args:
        source: batched.
        seed: of the shuffle; None: the source's own order.
        multiple: the number of parts that a global batch is cut into.
        steps_per_loop: RunConfig.steps_per_loop.
    """

    def __init__(
        self, source: Source, *, seed: int | None, multiple: int, steps_per_loop: int | str
    ):
        if source.batch_size is None:
            raise UserError(
                f"the {type(source).__name__} has no batch size; write "
                "return source.batch(64), where 64 is the global batch size."
            )
        self._source, self._seed, self._length = source, seed, len(source)
        self._structure = source.element_spec
        self.element_spec = tf.nest.map_structure(
            lambda s: tf.TensorSpec([None, *s.shape], s.dtype), self._structure
        )
        self.batch_size = source.batch_size
        self.rows = rows_for(self.batch_size, multiple)
        self.capacity = capacity_for(self.element_spec, self.rows, steps_per_loop)
        self.steps_per_pass = -(-self._length // self.batch_size)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tfbig-read")
        self._ahead: tuple[int, int, Future] | None = None

    def pull(self, step: int, steps: int, then: int = 0) -> Stack:
        ahead, self._ahead = self._ahead, None
        if ahead and ahead[0] == step and ahead[1] >= steps:
            future = ahead[2]
        else:
            future = self._reader.submit(self._read, step, steps)  # one thread does all the reading
        stack = future.result()._replace(steps=steps)
        if then:
            first = step + steps
            self._ahead = (first, then, self._reader.submit(self._read, first, then))
        return stack

    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)

    def batch_numbers(self, step: int) -> np.ndarray:
        """The numbers of the examples in the global batch of a step: int64 [n]."""
        return self._numbers(step, 1)[0]

    def _numbers(self, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The example numbers of consecutive batches, one after the other, and their counts."""
        batches = np.arange(step, step + steps)
        passes, batch = np.divmod(batches, self.steps_per_pass)
        first = batch * self.batch_size
        counts = np.minimum(self._length - first, self.batch_size)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        positions = np.arange(counts.sum()) + np.repeat(first - starts, counts)
        return self._permuted(np.repeat(passes, counts), positions), counts.astype(np.int32)

    def _permuted(self, passes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where each pass's own permutation sends positions; computed, not stored.

        A block cipher with the domain of the source's size ("Simon" of Beaulieu et al., 2013)
        makes a permutation without a buffer. It is the operation behind
        tf.random.experimental.index_shuffle, which takes one seed at a time.
        """
        if self._seed is None:
            return positions
        seeds = np.empty([len(positions), 3], np.int64)
        seeds[:, 0], seeds[:, 1], seeds[:, 2] = _CIPHER, self._seed, passes
        with tf.device("CPU:0"):
            return tf.raw_ops.RandomIndexShuffle(
                index=positions.astype(np.int64),
                seed=seeds,
                max_index=np.int64(self._length - 1),
                rounds=4,
            ).numpy()

    def _read(self, step: int, steps: int) -> Stack:
        numbers, counts = self._numbers(step, steps)
        batch = self._source.read(numbers)
        self._check(batch, len(numbers), step)
        with tf.device("CPU:0"):  # in the reading thread, so that the loop need not copy
            values = tf.nest.map_structure(
                lambda a: tf.convert_to_tensor(self._stacked(np.asarray(a), counts)), batch
            )
        return Stack(values, _padded(counts, self.capacity), steps)

    def _stacked(self, array: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """[sum of counts, …] to [capacity, rows, …], zeros where there is no example."""
        shape = [self.capacity, self.rows, *array.shape[1:]]
        if len(array) == self.capacity * self.rows:  # full, so it needs no copy
            return array.reshape(shape)
        stack = np.zeros(shape, array.dtype)
        if array.dtype == object:  # strings, whose padding is no number
            stack.fill("")
        start = 0
        full = counts == self.batch_size
        for run in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(full)) + 1):
            n = int(counts[run].sum())
            rows = int(counts[run[0]])
            piece = array[start : start + n].reshape(len(run), rows, *array.shape[1:])
            stack[run[0] : run[-1] + 1, :rows] = piece
            start += n
        return stack

    def _check(self, batch: Any, count: int, step: int) -> None:
        """Every read has the structure, the types and the number of examples of the first."""
        try:
            tf.nest.assert_same_structure(batch, self._structure)
        except (ValueError, TypeError):
            raise UserError(
                f"the data changed their structure between batches: at step {step} read() gave "
                f"{_shown(batch)}, but the first gave {_shown(self._structure)}."
            ) from None
        for array, spec in zip(
            tf.nest.flatten(batch), tf.nest.flatten(self._structure), strict=True
        ):
            shape, dtype = np.shape(array), tf.as_dtype(np.asarray(array).dtype)
            if shape[1:] != tuple(spec.shape) or dtype != spec.dtype or shape[0] != count:
                raise UserError(
                    f"the data changed their structure between batches: at step {step} read() "
                    f"gave {dtype.name} of shape {shape} for {count} examples, but an example is "
                    f"{spec.dtype.name} of shape {tuple(spec.shape)}."
                )


def _padded(counts: np.ndarray, capacity: int) -> np.ndarray:
    return np.concatenate([counts, np.zeros(capacity - len(counts), np.int32)])


def _shown(structure: Any) -> str:
    def leaf(value):
        if not hasattr(value, "dtype"):
            return type(value).__name__
        return f"{value.dtype.name}{list(value.shape)}"

    return str(tf.nest.map_structure(leaf, structure)).replace("'", "")
