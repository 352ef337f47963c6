"""Evaluates a program on data: one pass, exact metrics."""

import math
from collections.abc import Callable
from typing import Any

from tfbig.data.feeds.feed import Feed
from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.evaluation.checked_calls import CheckedCalls
from tfbig.training.loop.agreement import sync_batch_sizes
from tfbig.training.model import build_program
from tfbig.training.step.own_train_step import check_last_batch
from tfbig.training.step.step_maker import StepMaker


class Evaluator:
    """Runs one pass over a feed in EVAL mode, each time it is called.

    Args:
        program, placement: as in training.
        feed: read in its own order.
        config: as in training.
        jit: compile with XLA where possible.
        steps: how many batches one evaluation reads at most; None: all.
        hooks: called for each batch, by `begin() -> whether any listens`,
            `before(stack, step)`, `after(step, logs)` and `finish()`; or None.
        reads: the name of the user's argument that gives the data, for messages.
    """

    def __init__(
        self,
        program: Program,
        placement: Placement,
        feed: Feed,
        config: RunConfig,
        jit: bool,
        steps: int | None = None,
        hooks: Any = None,
        reads: str = "input_fn",
    ):
        if getattr(feed, "infinite", False) and steps is None:
            raise UserError(
                "eval_input_fn returned an infinite Dataset, so an evaluation would not end; "
                "leave out .repeat(), or write .take(n)."
            )
        check_last_batch(program, placement, feed, training=False)
        self._program, self._placement, self._feed = program, placement, feed
        self._config, self._jit, self._steps, self._hooks = config, jit, steps, hooks
        self._loop: Any = None
        self._checked = CheckedCalls(program, placement, feed, reads)

    def __call__(
        self, on_call: Callable[[int, int, dict[str, float]], None] | None = None
    ) -> dict[str, float]:
        """Returns the loss and the metrics over the whole pass, weighted by examples.

        Args:
            on_call: called after each call of the loop with its first and last batch, counted
                from 0, and the loss and metrics so far.

        Raises:
            UserError: the loss is not finite because of the values of a batch; it names that.
        """
        if self._loop is None:
            build_program(self._program, self._placement, self._feed, training=False)
            self._program.select_mode(training=False)
            steps = StepMaker(self._program, self._config, training=False)
            self._loop = self._placement.make_loop(self._feed, steps, jit=self._jit)
        program, feed = self._program, self._feed
        own = program.runs_custom_step(training=False)  # then the loss is among what it returns
        program.select_mode(training=False)
        with self._placement.scope():
            program.reset_metrics()
        step, loss, examples = 0, 0.0, 0.0
        total = feed.steps_per_pass
        if self._steps is not None:
            total = self._steps if total is None else min(total, self._steps)
        listen = self._hooks is not None and self._hooks.begin()
        most = 1 if listen else feed.capacity
        while total is None or step < total:
            steps = most if total is None else min(most, total - step)
            then = 0 if total is None else min(most, total - step - steps)
            stack = feed.pull(step, steps, then)
            if not stack.steps:
                break
            stack = sync_batch_sizes(stack, self._placement.peers)
            if listen:
                self._hooks.before(stack, step)
            ran = self._checked.run(self._loop, stack, step)
            if not ran.steps:
                break
            loss, examples = loss + ran.loss_sum, examples + ran.examples
            if on_call is not None:
                logs = {} if own else {"loss": loss / max(examples, 1.0)}
                logs.update(program.metric_results(logs.get("loss")))
                on_call(step, step + ran.steps - 1, logs)
            step += ran.steps
            if listen:
                self._hooks.after(step, {"loss": ran.loss_sum / max(ran.examples, 1.0)})
        if listen:
            self._hooks.finish()
        feed.next_pass()
        with self._placement.scope():
            results = {} if own else {"loss": loss / examples if examples else math.nan}
            results.update(program.metric_results(results.get("loss")))
            program.reset_metrics()
        program.select_mode(training=True)
        return results
