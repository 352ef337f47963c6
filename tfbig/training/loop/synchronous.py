"""Synchronous steps under parameter servers: the workers share each global batch."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Stack
from tfbig.data.feeds.numbered_feed import NumberedFeed
from tfbig.errors import UserError
from tfbig.placement.parameter_server.parameter_server import ParameterServer, PartOfBatch
from tfbig.placement.parameter_server.variable_devices import tensorflow_variable
from tfbig.programs.program import Program
from tfbig.training.loop.loop_function import LoopResult
from tfbig.training.loop.part_sums import DensePlace, RowsPlace, place_for
from tfbig.training.loop.scheduled import ScheduledLoop
from tfbig.training.step.step import Step
from tfbig.training.step.sums import Sums, flat_sums


class SynchronousLoop(ScheduledLoop):
    """Runs steps of which each is cut into as many parts as there are workers.

    A closure computes what one part of a global batch adds up to, and puts it into the part's own
    place, beside the weights; if it is run again because its worker was lost, it puts the same
    there once more. When all parts have been, one update is done by their sums, on the ps, in
    `Step.finish` as everywhere. So the numbers are those of one device.

    Args: those of ScheduledLoop.
    """

    def __init__(self, program: Program, placement: ParameterServer, feed: NumberedFeed, **others):
        if program.synchronizes and placement.workers > 1:
            raise UserError(
                "the model has BatchNormalization(synchronized=True), and the workers of "
                'strategy="parameter_server" do not talk to each other; leave synchronized out, '
                'or use strategy="multi_worker".'
            )
        super().__init__(program, placement, feed, **others)

    def run(self, stack: Stack, first: int) -> LoopResult:
        loss_sum, examples, nonfinite, done = 0.0, 0.0, -1, 0
        added: list | None = None
        part, update = self._functions()
        before = [v.numpy() for v in self._program.metric_variables]
        passes, position = stack.values
        for i in range(stack.steps):
            numbers = (passes, position + i, first + i)
            counts = self._parts_of(part, numbers)
            if not counts[:, 2].any():
                break
            if not counts[:, 2].all():
                raise UserError(
                    f"the workers' data end at different steps: at step {first + i + 1} only some "
                    "of them have a batch. With max_staleness=0 they share each batch; have "
                    "input_fn return the same data, in the same order, in every task."
                )
            count, size = int(counts[:, 0].sum()), int(counts[:, 1].max())
            loss, *metrics = update(tf.constant(size / max(count, 1), tf.float32))
            loss, metrics = float(loss.numpy()), [m.numpy() for m in metrics]
            done += 1
            if nonfinite < 0 and not np.isfinite(loss):
                nonfinite = i
            if np.isfinite(loss) or not self._program.scales_loss:  # else the step was skipped
                loss_sum, examples = loss_sum + loss * count, examples + count
            added = metrics if added is None else [a + b for a, b in zip(added, metrics)]  # noqa: B905
        self._set_metrics(before, added)
        self._program.count_steps(first + done)
        if done < stack.steps:
            self._feed.ended_after(stack, done)
        return LoopResult(loss_sum, examples, nonfinite, done)

    def trace(self, stack: Stack) -> None:
        self._functions()

    @property
    def _one_by_one(self) -> bool:
        """Whether a part changes variables as it runs, of which there is one set for all parts."""
        return bool(self._program.state) and not self._program.pure

    def _parts_of(self, part: Any, numbers: tuple[int, int, int]) -> np.ndarray:
        """Has all parts of a step computed; for each: its examples, the batch's, and 1 if any."""
        arguments = [tf.constant(n, tf.int64) for n in numbers]
        scheduled = []
        for p in range(self._placement.workers):
            scheduled.append(self._placement.schedule(part, [*arguments, tf.constant(p)]))
            if self._one_by_one:
                self._join()
        self._join()
        return np.array([value.fetch() for value in scheduled])

    def _functions(self) -> tuple[Any, Any]:
        if self._closure is None:
            self._closure = self._traced()
        return self._closure

    def _traced(self) -> tuple[Any, Any]:
        """The functions of a part and of the update."""
        parts = self._placement.workers
        steps, places, shared = [], [], []

        def part(passes, position, first, p):
            self._program.select(self._training)
            values, shares, stop = self._read(passes, position, tf.constant(1, tf.int64), p)
            step = self._step(PartOfBatch(parts, p))
            i = tf.constant(0)
            share = type(shares)(*(numbers[i] for numbers in shares))

            def compute():
                with self._program.tracing():
                    before, sums = step.compute(values, share, i, first, p)
                flat = flat_sums(sums)
                if not places:
                    with tf.init_scope():
                        places.extend(self._places(sums, parts))
                    shared.append(len(sums.other))
                for place, value in zip(places, flat, strict=True):
                    place.put(p, value)
                if self._one_by_one:  # the next part begins with the same
                    for variable, value in zip(self._program.state, before.state, strict=True):
                        variable.assign(value)
                return tf.stack([share.count, share.size, 1])

            steps.append(step)
            return tf.cond(stop > 0, compute, lambda: tf.zeros([3], tf.int32))

        def update(correction):
            step, added = steps[-1], len(places) - shared[-1]
            flat = [place.total() for place in places[:added]]
            flat += [place.of_one() for place in places[added:]]  # what is equal in all parts
            with self._placement.on_servers(), self._program.tracing():
                sums = step.unflatten(flat)
                # What was left out, bad records, weighs nothing in the statistics either.
                moving = [m * tf.cast(correction, m.dtype) for m in sums.moving]
                loss, metrics = step.finish(sums._replace(moving=moving))
            return loss, *metrics

        number = tf.TensorSpec([], tf.int64)
        signature = [number, number, number, tf.TensorSpec([], tf.int32)]
        traced = tf.function(part, input_signature=signature, autograph=False)
        of_part = traced.get_concrete_function()
        signature = [tf.TensorSpec([], tf.float32)]
        traced = tf.function(update, input_signature=signature, autograph=False)
        return of_part, traced.get_concrete_function()

    def _step(self, placement: PartOfBatch) -> Step:
        return Step(
            self._program,
            placement,
            training=True,
            aggregation=self._config.gradient_aggregation,
            micro_batches=self._config.accumulation_steps,
            rows=-(-self._feed.batch_size // self._placement.workers),
            exact=True,
            find_nan=True,
            adds_metrics=True,
        )

    def _places(self, sums: Sums, parts: int) -> list[DensePlace | RowsPlace]:
        """A place for each part's share of each sum; a gradient's is beside its weight."""
        beside: list = [
            tensorflow_variable(variable)
            for of_group in sums.gradients
            for gradient, variable in zip(of_group, self._program.trainable, strict=True)
            if gradient is not None
        ]
        flat = flat_sums(sums)
        beside += [None] * (len(flat) - len(beside))
        return [
            place_for(value, parts, functools.partial(self._placement.made_beside, weight))
            for weight, value in zip(beside, flat, strict=True)
        ]
