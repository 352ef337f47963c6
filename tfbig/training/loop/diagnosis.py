"""What is wrong with a batch, or which operation made a NaN: asked when a step fails."""

import re

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Stack
from tfbig.errors import UserError
from tfbig.placement.loop_function import LoopFunction
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program, split_element
from tfbig.training.callbacks.nan_guard import locate_first_bad_op

_EXAMPLE = re.compile(r"in example (\d+)(?= of the batch)")


class Diagnosis:
    """Looks at batches that a program has been given, or is to be given.

    Args:
        program, placement, feed: of the run.
    """

    def __init__(self, program: Program, placement: Placement, feed: Feed):
        self._program, self._placement, self._feed = program, placement, feed

    def check(self, stack: Stack, place: int, cause: Exception | None = None) -> None:
        """Raises an error if the values of a batch can be seen to be wrong.

        Raises:
            UserError: they can; it says what to do.
        """
        found = self.explain(stack, place)
        if found:
            raise UserError(f"{found}; repair or leave out such examples in input_fn.") from cause

    def explain(self, stack: Stack, place: int) -> str | None:
        """What is wrong with the batch at a place in the stack, or None."""
        batch = self._feed.examples(stack, place)
        if batch is None:
            return None
        features, labels, _ = split_element(batch)
        found = self._program.explain_batch(features, labels)
        # In the global batch, of which a worker has a share; a chief's stack is of numbers alone.
        first = int(stack.offsets[place]) if len(stack.offsets) else 0
        return found and _EXAMPLE.sub(lambda number: f"in example {int(number[1]) + first}", found)

    def explain_all(self, stack: Stack, place: int) -> str | None:
        """The same, by the first task whose share shows it; all tasks ask."""
        found = self._placement.peers.all_gather(self.explain(stack, place))
        return next(filter(None, found), None)

    def snapshot(self) -> list[tuple[tf.Variable, np.ndarray]]:
        """All variables and their values."""
        return [(v, v.numpy()) for v in self._program.named_variables().values()]

    def locate(
        self, calls: LoopFunction, before: list, stack: Stack, place: int, step: int
    ) -> str | None:
        """Goes back to where a call began, and runs up to and through its first bad step.

        Args:
            calls: what ran the stack.
            before: the snapshot of that time.
            stack, place: of the first bad step.
            step: the global step of the stack's first batch.

        Returns:
            The first operation whose output is not finite, in words, or None.
        """
        with self._placement.scope():
            for variable, value in before:
                variable.assign(value)
        if place:
            calls.run(stack._replace(steps=place), step)
        return locate_first_bad_op(lambda: calls.run_untraced(stack, place, step))
