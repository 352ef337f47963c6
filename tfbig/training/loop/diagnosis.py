"""Finds what is wrong with a batch, or which operation made a NaN, when a step fails."""

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
    """Examines batches that a program is run on.

    Args:
        program, placement, feed: of the run.
    """

    def __init__(self, program: Program, placement: Placement, feed: Feed):
        self._program, self._placement, self._feed = program, placement, feed

    def check(self, stack: Stack, index: int, cause: Exception | None = None) -> None:
        """Checks the values of a batch.

        Args:
            stack, index: the batch.
            cause: the error that the step raised, or None.

        Raises:
            UserError: they are wrong; it says what to do.
        """
        found = self.explain(stack, index)
        if found:
            raise UserError(f"{found}; repair or leave out such examples in input_fn.") from cause

    def explain(self, stack: Stack, index: int) -> str | None:
        """What is wrong with the batch at an index of the stack, or None."""
        batch = self._feed.examples(stack, index)
        if batch is None:
            return None
        features, labels, _ = split_element(batch)
        found = self._program.explain_batch(features, labels)
        # A worker has a share of the global batch. A chief of ps has numbers of batches only.
        first = int(stack.offsets[index]) if len(stack.offsets) else 0
        return found and _EXAMPLE.sub(lambda number: f"in example {int(number[1]) + first}", found)

    def explain_all(self, stack: Stack, index: int) -> str | None:
        """The same, by the first task in whose share it is found; all tasks call this together."""
        found = self._placement.peers.all_gather(self.explain(stack, index))
        return next(filter(None, found), None)

    def snapshot(self) -> list[tuple[tf.Variable, np.ndarray]]:
        """All variables and their values."""
        return [(v, v.numpy()) for v in self._program.named_variables().values()]

    def locate(
        self, loop: LoopFunction, before: list, stack: Stack, index: int, step: int
    ) -> str | None:
        """Restores the variables from before a call, and runs up to its first bad step.

        Args:
            loop: what ran the stack.
            before: the snapshot from before the call.
            stack, index: of the first bad step.
            step: the global step of the stack's first batch.

        Returns:
            The first operation whose output is not finite, in words, or None.
        """
        with self._placement.scope():
            for variable, value in before:
                variable.assign(value)
        if index:
            loop.run(stack._replace(steps=index), step)
        return locate_first_bad_op(lambda: loop.run_untraced(stack, index, step))
