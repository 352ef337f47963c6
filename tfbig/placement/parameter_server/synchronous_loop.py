"""Synchronous steps under parameter servers: the workers share each global batch."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.feeds.feed import Share, Stack
from tfbig.data.feeds.index_feed import IndexFeed
from tfbig.errors import UserError
from tfbig.placement.loop_function import LoopResult
from tfbig.placement.parameter_server.part_sums import DenseSum, RowsSum, sum_for
from tfbig.placement.parameter_server.scheduled_loop import ScheduledLoop, added_up
from tfbig.placement.parameter_server.variable_devices import tensorflow_variable
from tfbig.placement.placement import Placement
from tfbig.placement.sums import Sums, flat_sums


class PartOfBatch(Placement):
    """One part of a global batch, of which each worker computes one in a closure.

    Args:
        parts: how many parts there are.
        part: which one, int32 scalar.
    """

    def __init__(self, parts: int, part: tf.Tensor):
        super().__init__()
        self.num_replicas, self.first_replica = parts, part

    @property
    @override
    def local_replicas(self) -> int:
        return 1


class SynchronousLoop(ScheduledLoop):
    """Runs steps, each cut into as many parts as there are workers.

    A closure computes the sums of one part of a global batch, and writes them to the part's own
    variables, beside the weights. A closure that runs again because its worker was lost writes
    the same values again. After all parts, one update on the ps uses their sums, in `Step.finish`
    as everywhere. So the numbers are those of one device.

    Args: those of ScheduledLoop.
    """

    def __init__(self, placement: Any, feed: IndexFeed, steps: Any, **others: Any):
        if steps.program.synchronizes and placement.workers > 1:
            raise UserError(
                "the model has BatchNormalization(synchronized=True), and the workers of "
                'strategy="parameter_server" do not talk to each other; leave synchronized out, '
                'or use strategy="multi_worker".'
            )
        super().__init__(placement, feed, steps, **others)
        self._sums: list[DenseSum | RowsSum] = []
        self._num_equal = 0  # of the sums, the last ones, which are equal in all parts
        self._parts_function: Any = None
        self._update_function: Any = None

    @override
    def run(self, stack: Stack, first: int) -> LoopResult:
        self._trace()
        loss_sum, examples, nonfinite, done = 0.0, 0.0, -1, 0
        added: list | None = None
        before = [v.numpy() for v in self._program.metric_variables]
        passes, position = stack.values
        for i in range(stack.steps):
            counts = self._compute_parts((passes, position + i, first + i))
            if not counts[:, 2].any():
                break
            if not counts[:, 2].all():
                raise UserError(
                    f"the workers' data end at different steps: at step {first + i + 1} only some "
                    "of them have a batch. With max_staleness=0 they share each batch; have "
                    "input_fn return the same data, in the same order, in every task."
                )
            count, size = int(counts[:, 0].sum()), int(counts[:, 1].max())
            loss, *metrics = self._update_function(tf.constant(size / max(count, 1), tf.float32))
            loss, metrics = float(loss.numpy()), [m.numpy() for m in metrics]
            done += 1
            if nonfinite < 0 and not np.isfinite(loss):
                nonfinite = i
            if np.isfinite(loss) or not self._program.scales_loss:  # else the step was skipped
                loss_sum, examples = loss_sum + loss * count, examples + count
            added = added_up(added, metrics)
        self._add_to_metrics(before, added)
        self._program.set_step_count(first + done)
        if done < stack.steps:
            self._feed.mark_end(stack, done)
        return LoopResult(loss_sum, examples, nonfinite, done)

    @override
    def trace(self, stack: Stack) -> None:
        del stack
        self._trace()

    @property
    def _one_by_one(self) -> bool:
        """Whether a part changes variables as it runs, of which there is one set for all parts."""
        return bool(self._program.state) and not self._program.pure

    def _compute_parts(self, numbers: tuple[int, int, int]) -> np.ndarray:
        """Has all parts of a step computed.

        Returns:
            Integers of shape [parts, 3]: a part's examples, the global batch's, and 1 if the part
            has a batch.
        """
        arguments = [tf.constant(n, tf.int64) for n in numbers]
        scheduled = []
        for part in range(self._placement.workers):
            values = [*arguments, tf.constant(part)]
            scheduled.append(self._placement.schedule(self._parts_function, values))
            if self._one_by_one:
                self._join()
        self._join()
        return np.array([value.fetch() for value in scheduled])

    def _trace(self) -> None:
        """Traces the function of a part, and that of the update."""
        if self._update_function is not None:
            return
        number, part = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)
        traced = tf.function(
            self._part, input_signature=[number, number, number, part], autograph=False
        )
        self._parts_function = traced.get_concrete_function()
        signature = [tf.TensorSpec([], tf.float32)]
        traced = tf.function(self._update, input_signature=signature, autograph=False)
        self._update_function = traced.get_concrete_function()

    def _part(self, passes, position, first, part) -> tf.Tensor:
        """Computes one part of a step on a worker, inside a trace."""
        self._program.select_mode(training=True)
        values, shares, stop = self._read(passes, position, tf.constant(1, tf.int64), part)
        step = self._make_step(part)
        i = tf.constant(0)
        share = Share(*(numbers[i] for numbers in shares))

        def compute():
            with self._program.tracing():
                before, sums = step.compute(values, share, i, first, part)
            self._write(part, sums, before.state)
            return tf.stack([share.count, share.size, 1])

        self._step = step
        return tf.cond(stop > 0, compute, lambda: tf.zeros([3], tf.int32))

    def _write(self, part: tf.Tensor, sums: Sums, state: list) -> None:
        """Writes what a part adds up to; restores the state that the part has changed."""
        if not self._sums:
            with tf.init_scope():
                self._sums = self._make_sums(sums)
            self._num_equal = len(sums.other)
        for kept, value in zip(self._sums, flat_sums(sums), strict=True):
            kept.write(part, value)
        if self._one_by_one:  # the next part starts from the same state
            for variable, value in zip(self._program.state, state, strict=True):
                variable.assign(value)

    def _update(self, correction) -> tuple:
        """Updates by the sums of all parts, inside a trace; returns the loss and the metrics.

        Args:
            correction: float32 scalar, the size of the global batch over the examples that are
                left of it. Examples that were left out, bad records, count for nothing in the
                moving statistics either.
        """
        added = len(self._sums) - self._num_equal
        flat = [kept.total() for kept in self._sums[:added]]
        flat += [kept.of_one() for kept in self._sums[added:]]
        with self._placement.on_servers(), self._program.tracing():
            sums = self._step.unflatten(flat)
            moving = [m * tf.cast(correction, m.dtype) for m in sums.moving]
            loss, metrics = self._step.finish(sums._replace(moving=moving))
        return loss, *metrics

    def _make_step(self, part: tf.Tensor) -> Any:
        parts = self._placement.workers
        return self._steps.make(
            PartOfBatch(parts, part),
            rows=-(-self._feed.batch_size // parts),
            exact=True,
            find_nan=True,
            adds_metrics=True,
        )

    def _make_sums(self, sums: Sums) -> list[DenseSum | RowsSum]:
        """Variables for each part's share of each sum; a gradient's are beside its weight."""
        beside: list = [
            tensorflow_variable(variable)
            for of_group in sums.gradients
            for gradient, variable in zip(of_group, self._program.trainable, strict=True)
            if gradient is not None
        ]
        flat = flat_sums(sums)
        beside += [None] * (len(flat) - len(beside))
        return [
            sum_for(
                value,
                self._placement.workers,
                functools.partial(self._placement.made_beside, weight),
            )
            for weight, value in zip(beside, flat, strict=True)
        ]
