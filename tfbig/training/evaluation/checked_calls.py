"""Checks the values of evaluation batches when their loss is not finite."""

import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Stack
from tfbig.errors import UserError
from tfbig.placement.loop_function import LoopFunction, LoopResult
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.training.loop.diagnosis import Diagnosis


class CheckedCalls:
    """Runs stacks of an evaluation and refuses batches with wrong values.

    Args:
        program, placement, feed: of the evaluation.
        reads: the name of the argument that gives the data, for messages.
    """

    def __init__(self, program: Program, placement: Placement, feed: Feed, reads: str):
        self._program, self._reads = program, reads
        self._diagnosis = Diagnosis(program, placement, feed)

    def run(self, loop: LoopFunction, stack: Stack, step: int) -> LoopResult:
        """Runs a stack.

        Args:
            loop: runs it.
            stack: of the evaluation's feed.
            step: the number of its first batch in the pass, counted from 0.

        Raises:
            UserError: the values of a batch are wrong; it names the batch.
        """
        try:
            ran = loop.run(stack, step)
        except tf.errors.InvalidArgumentError as error:
            for index in range(stack.steps):
                self._refuse(self._diagnosis.explain(stack, index), step + index, error)
            raise
        if ran.nonfinite >= 0:  # a loss of the global batch, so all tasks come here
            number = step + ran.nonfinite
            self._refuse(self._diagnosis.explain_all(stack, ran.nonfinite), number)
            self._program.warn_once(
                f"the evaluation's loss is NaN or infinite, for the first time in batch "
                f"{number + 1} of {self._reads}, in which no value is seen to be wrong: the "
                "weights may have diverged. Try a lower learning rate, or clipping "
                "(global_clipnorm=1.0 on the optimizer)"
            )
        return ran

    def _refuse(self, found: str | None, number: int, cause: Exception | None = None) -> None:
        if found:
            raise refusal_of_batch(found, number + 1, self._reads) from cause


def refusal_of_batch(found: str, number: int, reads: str) -> UserError:
    """The error for a batch whose values are wrong.

    Args:
        found: what is wrong.
        number: which batch of the pass, counted from 1.
        reads: the name of the argument that gives the data.
    """
    return UserError(
        f"batch {number} of {reads}: {found}; repair or leave out such examples in {reads}."
    )
