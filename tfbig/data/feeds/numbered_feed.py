"""Batches by their numbers: workers read them, wherever they are asked for."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.data.feeds.feed import Feed, Stack, cut_out
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError

log = logging.getLogger("tfbig")

_CALLS = 4  # closures for each worker in a call of the loop, so that all have work to its end
_LONGEST = 16  # the same, where a closure has as many batches as a stack may


class Numbers(NamedTuple):
    """Where batches are read.

    Attributes:
        passes: how many passes over the data were read before; 0 for a Source.
        position: the number of the first batch, in this pass; for a Source the step.
    """

    passes: int
    position: int


class NumberedFeed(Feed):
    """The chief's side: stacks that hold `Numbers`, and no examples.

    Args:
        feed: of the same data, for what it tells of them; it is asked for examples only to look
            for what is wrong with them.
        name: of the data, for those who read them.
        workers: how many read.
        steps_per_loop: RunConfig.steps_per_loop.

    Attributes:
        name: as above.
        most: how many batches a worker reads at most at once.
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
        self.steps_per_pass, self.most = feed.steps_per_pass, feed.capacity
        self.repeats = self._by_step
        self.infinite = getattr(feed, "infinite", False)
        closure = 1 if steps_per_loop == "auto" else min(steps_per_loop, self.most)
        self.least = _CALLS * workers * closure
        self.capacity = max(_LONGEST * workers * self.most, self.least)
        self._passes = self._position = 0
        self._ended = self._first_read = False

    def pull(self, step: int, steps: int, then: int = 0) -> Stack:
        del then
        if self._by_step:
            self._position = step
        elif self._ended:
            steps = 0
        elif self.steps_per_pass is not None:
            steps = min(steps, self.steps_per_pass - self._position)
        none = np.zeros([0], np.int32)
        stack = Stack(Numbers(self._passes, self._position), none, steps, none, none, none)
        self._position += steps
        return stack

    def examples(self, stack: Stack, place: int) -> Any:
        passes, position = stack.values
        if not self._by_step and (self._first_read or passes or position or place):
            return None  # a Dataset has its first batch at hand, and no other
        self._first_read = True
        one = self._feed.pull(position + place, 1)
        return self._feed.examples(one, 0) if one.steps else None

    def ended_after(self, stack: Stack, steps: int) -> None:
        self._ended = True
        self._position = stack.values.position + steps

    def next_pass(self) -> None:
        if self._by_step:
            return
        if not self._position:
            raise UserError(
                "the Dataset is empty: it has no batch. Check its files, its filter, and "
                "batch(…, drop_remainder=True) with fewer examples than one batch."
            )
        self._passes, self._position, self._ended = self._passes + 1, 0, False

    def position(self) -> dict:
        if self._by_step:
            return {}
        where = {"passes": self._passes, "in_pass": self._position}
        return where | {"kept": False, "batch_size": self.batch_size}

    def go_to(self, position: dict) -> None:
        if self._by_step:
            return
        if position.get("batch_size") != self.batch_size:
            log.warning(
                "input_fn does not return the data that the checkpoint was written with (batches "
                "of %s, now of %d); they are read from their start",
                position.get("batch_size"),
                self.batch_size,
            )
            return
        self._passes, self._position = position["passes"], position["in_pass"]

    def close(self) -> None:
        self._feed.close()


class NumberedReader:
    """A worker's side: reads batches by their numbers.

    A Source reads any batch at once. A Dataset is read on to it: every worker goes through all
    batches in the same order and keeps those it is asked for, as with Dataset.shard; for one that
    lies before, the Dataset is read again from its start.

    Args:
        make_feed: returns a feed of the same data as the chief's; with part= and parts=, of one
            part of each batch.
        parts: how many parts a batch is asked for in; 1: it is asked for as a whole.

    Attributes:
        element_spec: the feed's.
    """

    def __init__(self, make_feed: Callable[..., SourceFeed | DatasetFeed], parts: int = 1):
        self._make_feed, self._parts = make_feed, parts
        self._feed = make_feed()
        self.element_spec = self._feed.element_spec
        self._by_step = isinstance(self._feed, SourceFeed)
        self._of_parts: dict[int, SourceFeed | DatasetFeed] = {}
        self._at = Numbers(0, 0)
        self._last: tuple[Numbers, Stack] | None = None

    def read(self, numbers: Numbers, steps: int, part: int = -1) -> Stack:
        """Reads up to `steps` batches; fewer, if the pass ends before.

        Args:
            numbers: of the first.
            steps: at most the feed's capacity; 1 for a part.
            part: which part of them; -1: the whole.
        """
        if not self._by_step:
            stack = self._read_on(numbers, min(steps, self._feed.capacity))
            if part < 0 or not stack.steps:
                return stack
            return cut_out(stack, -(-self._feed.batch_size // self._parts), part, self._parts)
        feed = self._feed
        if part >= 0:
            if part not in self._of_parts:
                self._of_parts[part] = self._make_feed(part=part, parts=self._parts)
            feed = self._of_parts[part]
        # The next one may go to another worker; a part mostly comes back.
        return feed.pull(numbers.position, min(steps, feed.capacity), then=int(part >= 0))

    def close(self) -> None:
        """Stops reading ahead."""
        for feed in (self._feed, *self._of_parts.values()):
            feed.close()

    def _read_on(self, numbers: Numbers, steps: int) -> Stack:
        if self._last is not None and self._last[0] == numbers and self._last[1].steps == steps:
            return self._last[1]  # another part of it
        if not self._go_to(numbers):
            return self._feed.pull(0, 0)
        stack = self._feed.pull(0, steps)
        self._at = Numbers(numbers.passes, numbers.position + stack.steps)
        self._last = (numbers, stack)
        return stack

    def _go_to(self, numbers: Numbers) -> bool:
        """Goes to a batch; returns False if the pass ends before."""
        while self._at.passes < numbers.passes and self._at.position:
            self._feed.next_pass()
            self._at = Numbers(self._at.passes + 1, 0)
            if self._at.passes < numbers.passes:
                self._skip(1)
        if self._at > numbers or self._at.passes < numbers.passes:
            self._feed.go_to(
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
            self._at = Numbers(self._at.passes, self._at.position + skipped)
        return True


def as_arrays(stack: Stack, element_spec: Any) -> list[np.ndarray]:
    """A stack as arrays of the types that `array_types` tells: values, then numbers."""
    if stack.values is None:  # at the end of batches that are read one by one
        specs = tf.nest.flatten(element_spec)
        values = [np.zeros([1] * s.shape.rank + [1], s.dtype.as_numpy_dtype) for s in specs]
    else:
        values = [np.asarray(value) for value in tf.nest.flatten(stack.values)]
    return [*values, stack.counts, stack.sizes, stack.offsets, np.int32(stack.steps)]


def array_types(element_spec: Any) -> list[tf.DType]:
    """The types of what `as_arrays` returns."""
    return [spec.dtype for spec in tf.nest.flatten(element_spec)] + [tf.int32] * 4
