"""Batches by index: the chief hands out indices, and workers read the batches."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.data.feeds.feed import Feed, Stack, slice_for_worker
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError

log = logging.getLogger("tfbig")

# Closures per worker in a call of the loop: enough to keep all workers busy until its end.
_CALLS = 4
_LONGEST = 16  # the largest number of them, when each closure reads a full stack


class BatchIndex(NamedTuple):
    """The index of the first of consecutive batches.

    Attributes:
        passes: number of passes over the data before it; 0 for a Source.
        position: number of the batch in this pass; for a Source, the step.
    """

    passes: int
    position: int


class IndexFeed(Feed):
    """The chief's feed: its stacks hold `BatchIndex` instead of examples.

    Args:
        feed: a feed of the same data, for their spec and sizes. It reads examples only for error
            messages about the data.
        name: name of the data on the workers.
        workers: number of workers that read.
        steps_per_loop: RunConfig.steps_per_loop.

    Attributes:
        name: the argument.
        max_batches_per_read: largest number of batches that a worker reads at once.
    """

    def __init__(
        self, feed: SourceFeed | DatasetFeed, name: str, workers: int, steps_per_loop: int | str
    ):
        self._feed, self.name = feed, name
        self._by_step = isinstance(feed, SourceFeed)
        self.element_spec, self.batch_size, self.rows = (
            feed.element_spec,
            feed.batch_size,
            feed.rows,
        )
        self.full, self.static, self.remedy = feed.full, feed.static, feed.remedy
        self.steps_per_pass, self.max_batches_per_read = feed.steps_per_pass, feed.capacity
        self.repeats = self._by_step
        self.infinite = getattr(feed, "infinite", False)
        closure = 1 if steps_per_loop == "auto" else min(steps_per_loop, self.max_batches_per_read)
        self.min_batches_per_call = _CALLS * workers * closure
        self.capacity = max(
            _LONGEST * workers * self.max_batches_per_read, self.min_batches_per_call
        )
        self._passes = self._position = 0
        self._ended = self._first_read = False

    @override
    def pull(self, step: int, steps: int, read_ahead: int = 0) -> Stack:
        del read_ahead
        if self._by_step:
            self._position = step
        elif self._ended:
            steps = 0
        elif self.steps_per_pass is not None:
            steps = min(steps, self.steps_per_pass - self._position)
        none = np.zeros([0], np.int32)
        stack = Stack(BatchIndex(self._passes, self._position), none, steps, none, none, none)
        self._position += steps
        return stack

    @override
    def examples(self, stack: Stack, index: int) -> Any:
        passes, position = stack.values
        if not self._by_step and (self._first_read or passes or position or index):
            return None  # of a Dataset, only the first batch can be read without skipping others
        self._first_read = True
        one = self._feed.pull(position + index, 1)
        return self._feed.examples(one, 0) if one.steps else None

    @override
    def mark_end(self, stack: Stack, steps: int) -> None:
        self._ended = True
        self._position = stack.values.position + steps

    @override
    def next_pass(self) -> None:
        if self._by_step:
            return
        if not self._position:
            raise UserError(
                "the Dataset is empty: it has no batch. Check its files and its filter, and "
                "whether batch(…, drop_remainder=True) drops the only batch."
            )
        self._passes, self._position, self._ended = self._passes + 1, 0, False

    @override
    def position(self) -> dict:
        if self._by_step:
            return {}
        position = {"passes": self._passes, "in_pass": self._position}
        return position | {"kept": False, "batch_size": self.batch_size}

    @override
    def restore_position(self, position: dict) -> None:
        if self._by_step:
            return
        if position.get("batch_size") != self.batch_size:
            log.warning(
                "input_fn does not return the data that the checkpoint was written with (the batch "
                "size was %s, now %d); they are read from the start",
                position.get("batch_size"),
                self.batch_size,
            )
            return
        self._passes, self._position = position["passes"], position["in_pass"]

    @override
    def close(self) -> None:
        self._feed.close()


class IndexReader:
    """A worker's reader: reads batches by their index.

    A Source reads any batch directly. Of a Dataset, every worker iterates over all batches in
    order and keeps the requested ones, as with Dataset.shard. For an earlier batch, it restarts
    the Dataset.

    Args:
        make_feed: returns a feed of the same data as the chief's; with part= and parts=, a feed
            of one part of each batch.
        parts: number of parts in which a batch is requested; 1: whole batches.

    Attributes:
        element_spec: that of the feed.
    """

    def __init__(self, make_feed: Callable[..., SourceFeed | DatasetFeed], parts: int = 1):
        self._make_feed, self._parts = make_feed, parts
        self._feed = make_feed()
        self.element_spec = self._feed.element_spec
        self._by_step = isinstance(self._feed, SourceFeed)
        self._of_parts: dict[int, SourceFeed | DatasetFeed] = {}
        self._at = BatchIndex(0, 0)
        self._last: tuple[BatchIndex, Stack] | None = None

    def read(self, numbers: BatchIndex, steps: int, part: int = -1) -> Stack:
        """Reads up to `steps` batches; fewer if the pass ends.

        Args:
            numbers: index of the first batch.
            steps: number of batches, at most the feed's capacity; 1 for a part.
            part: index of the part of each batch; -1: the whole batch.
        """
        if not self._by_step:
            stack = self._read_on(numbers, min(steps, self._feed.capacity))
            if part < 0 or not stack.steps:
                return stack
            return slice_for_worker(
                stack, -(-self._feed.batch_size // self._parts), part, self._parts
            )
        feed = self._feed
        if part >= 0:
            if part not in self._of_parts:
                self._of_parts[part] = self._make_feed(part=part, parts=self._parts)
            feed = self._of_parts[part]
        # Reads ahead only for parts: a worker mostly gets the same part of each batch, but the
        # next whole batch may go to another worker.
        return feed.pull(numbers.position, min(steps, feed.capacity), read_ahead=int(part >= 0))

    def close(self) -> None:
        """Stops reading ahead."""
        for feed in (self._feed, *self._of_parts.values()):
            feed.close()

    def _read_on(self, numbers: BatchIndex, steps: int) -> Stack:
        if self._last is not None and self._last[0] == numbers and self._last[1].steps == steps:
            return self._last[1]  # for another part of the same batch
        if not self._go_to(numbers):
            return self._feed.pull(0, 0)
        stack = self._feed.pull(0, steps)
        self._at = BatchIndex(numbers.passes, numbers.position + stack.steps)
        self._last = (numbers, stack)
        return stack

    def _go_to(self, numbers: BatchIndex) -> bool:
        """Skips to a batch; returns False if the pass ends before it."""
        while self._at.passes < numbers.passes and self._at.position:
            self._feed.next_pass()
            self._at = BatchIndex(self._at.passes + 1, 0)
            if self._at.passes < numbers.passes:
                self._skip(1)
        if self._at > numbers or self._at.passes < numbers.passes:
            self._feed.restore_position(
                {
                    "passes": numbers.passes,
                    "in_pass": numbers.position,
                    "kept": False,
                    "batch_size": self._feed.batch_size,
                }
            )
            self._at = numbers
        return self._skip(numbers.position - self._at.position)

    def _skip(self, batches: int) -> bool:
        while batches:
            skipped = self._feed.pull(0, min(batches, self._feed.capacity)).steps
            if not skipped:
                return False
            batches -= skipped
            self._at = BatchIndex(self._at.passes, self._at.position + skipped)
        return True


def as_arrays(stack: Stack, element_spec: Any) -> list[np.ndarray]:
    """Flattens a stack to arrays of the dtypes in `array_types`: values, then counts and sizes."""
    if stack.values is None:  # the end of a pass whose batches are read one by one
        specs = tf.nest.flatten(element_spec)
        values = [np.zeros([1] * s.shape.rank + [1], s.dtype.as_numpy_dtype) for s in specs]
    else:
        values = [np.asarray(value) for value in tf.nest.flatten(stack.values)]
    return [*values, stack.counts, stack.sizes, stack.offsets, np.int32(stack.steps)]


def array_types(element_spec: Any) -> list[tf.DType]:
    """The dtypes of the arrays that `as_arrays` returns."""
    return [spec.dtype for spec in tf.nest.flatten(element_spec)] + [tf.int32] * 4
