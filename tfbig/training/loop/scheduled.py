"""Calls of the loop under parameter servers: closures that workers run, many at a time."""

import json
import re
from typing import Any

import tensorflow as tf

from tfbig.data.feeds.feed import Stack
from tfbig.data.feeds.numbered_feed import NumberedFeed, array_types
from tfbig.errors import UserError
from tfbig.placement.parameter_server.parameter_server import ParameterServer, remote
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.loop.loop_function import LoopResult, tallied
from tfbig.training.step.parts import Share
from tfbig.training.step.staleness import StalenessStats, Versions
from tfbig.training.step.step import Step

_CALLS = 4  # closures for each worker, so that none waits long for the last ones


class ScheduledLoop:
    """Runs stacks of batch numbers through one mode of a program, on the workers.

    A stack is cut into closures of consecutive batches. A worker that takes one reads these
    batches itself, by their numbers, and does their steps one after the other, while other
    workers do others: each step reads the variables from the ps as they are then, and updates
    them there. What a closure adds to the metrics, it returns, and the chief adds it up, so a
    closure that is run again because its worker was lost counts once.

    A model_fn puts what it measures into the metrics' variables, of which there is one set; its
    evaluation is one closure after the other.

    Args:
        program, placement: what and where.
        feed: of numbers.
        training: train or evaluate.
        config: gradient_aggregation, accumulation_steps and steps_per_loop.
        jit: False: steps that read their variables from other tasks are not compiled.
        insist: there is nothing to insist on.
    """

    def __init__(
        self,
        program: Program,
        placement: ParameterServer,
        feed: NumberedFeed,
        *,
        training: bool,
        config: RunConfig,
        jit: bool,
        insist: bool = False,
    ):
        del insist
        self._program, self._placement, self._feed = program, placement, feed
        self._training, self._config = training, config
        self.jit = jit
        self._closure: Any = None

    def run(self, stack: Stack, first: int) -> LoopResult:
        """Runs all the batches of a stack; `first` is the global step of its first one."""
        passes, position = stack.values
        before = [v.numpy() for v in self._program.metric_variables]
        one_by_one = bool(before) and not self._program.pure
        scheduled = []
        for start, steps in self._cut(stack.steps):
            numbers = (passes, position + start, steps, first + start)
            arguments = [tf.constant(n, tf.int64) for n in numbers]
            remote_value = self._placement.schedule(self._function(), arguments)
            scheduled.append((start, steps, remote_value))
            if one_by_one:
                self._join()
        self._join()
        loss_sum, examples, nonfinite, done = 0.0, 0.0, -1, 0
        added: list | None = None
        seen: StalenessStats | None = None
        for start, _, value in scheduled:
            loss, count, bad, steps, *rest = value.fetch()
            if self._training:
                new = StalenessStats(*map(int, rest[:3]))
                seen, rest = new if seen is None else seen.with_(new), rest[3:]
            metrics = rest
            loss_sum, examples, done = loss_sum + loss, examples + count, done + int(steps)
            if bad >= 0 and nonfinite < 0:
                nonfinite = start + int(bad)
            added = metrics if added is None else [a + b for a, b in zip(added, metrics)]  # noqa: B905
        self._set_metrics(before, added)
        if self._training:
            self._program.count_steps(first + done)
        if done < stack.steps:
            self._feed.ended_after(stack, done)
        return LoopResult(float(loss_sum), float(examples), nonfinite, done, seen)

    def trace(self, stack: Stack) -> None:
        """Traces what a worker runs, before anything is run."""
        self._function()

    def _join(self) -> None:
        try:
            self._placement.join()
        except tf.errors.OpError as error:
            raise _explained(error) from error

    def _set_metrics(self, before: list, added: list | None) -> None:
        """Gives the metrics' variables what they had and what was added to it."""
        variables = self._program.metric_variables
        for variable, old, new in zip(variables, before, added or (), strict=bool(added)):
            variable.assign(old + new)

    def _cut(self, steps: int) -> list[tuple[int, int]]:
        """(start, steps) of closures."""
        if self._config.steps_per_loop != "auto":
            most = self._config.steps_per_loop
        else:
            most = -(-steps // (_CALLS * self._placement.workers))
        most = max(1, min(most, self._feed.most))
        return [(start, min(most, steps - start)) for start in range(0, steps, most)]

    def _function(self):
        if self._closure is None:
            self._closure = self._traced()
        return self._closure

    def _traced(self):
        step = Step(
            self._program,
            self._placement,
            training=self._training,
            aggregation=self._config.gradient_aggregation,
            micro_batches=self._config.accumulation_steps,
            rows=self._feed.batch_size,
            exact=True,
            find_nan=True,
            adds_metrics=True,
        )
        variables = self._program.metric_variables
        versions = self._versions() if self._training else None
        skips = self._training and self._program.scales_loss

        def closure(passes, position, steps, first):
            self._program.select(self._training)
            values, shares, stop = self._read(passes, position, steps, tf.constant(-1))

            def body(i, loss_sum, examples, nonfinite, *rest):
                share = Share(*(numbers[i] for numbers in shares))
                number = first + tf.cast(i, tf.int64)
                if versions is None:
                    loss, added = step.returning_metrics(values, share, i, number)
                    news, metrics = [], rest
                else:
                    loss, added, now = step.asynchronous(values, share, i, number, versions)
                    seen, metrics = StalenessStats(*rest[:3]), rest[3:]
                    news = [seen.total + now.total, tf.maximum(seen.most, now.most)]
                    news.append(seen.dropped + now.dropped)
                return (
                    i + 1,
                    *tallied(i, loss, share, skips, loss_sum, examples, nonfinite),
                    *news,
                    *(a + b for a, b in zip(metrics, added, strict=True)),
                )

            with self._program.tracing():
                zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
                start = [tf.constant(0), tf.constant(0.0), tf.constant(0.0), tf.constant(-1)]
                start += [tf.constant(0, tf.int64)] * (0 if versions is None else 3)
                _, loss_sum, examples, nonfinite, *rest = tf.while_loop(
                    lambda i, *_: i < stop, body, (*start, *zeros), parallel_iterations=1
                )
            return loss_sum, examples, nonfinite, stop, *rest

        number = tf.TensorSpec([], tf.int64)
        function = tf.function(closure, input_signature=[number] * 4, autograph=False)
        return function.get_concrete_function()

    def _versions(self) -> Versions:
        count = self._placement.made_beside(None, lambda: tf.Variable(0, False, dtype=tf.int64))
        return Versions(count, self._config.max_staleness)

    def _read(self, passes, position, steps, part):
        """Reads the batches, or one part of each (-1: the whole), where the closure runs."""
        spec = self._feed.element_spec
        order = tf.constant(json.dumps(self._placement.order))
        wanted = [order, tf.constant(self._feed.name), passes, position, steps, part]
        *values, counts, sizes, offsets, stop = remote.call(remote.READ, wanted, array_types(spec))
        flat = [
            tf.ensure_shape(value, [None, None, *leaf.shape[1:]])
            for value, leaf in zip(values, tf.nest.flatten(spec), strict=True)
        ]
        shares = Share(*(tf.ensure_shape(numbers, [None]) for numbers in (counts, sizes, offsets)))
        return tf.nest.pack_sequence_as(spec, flat), shares, tf.ensure_shape(stop, [])


def _explained(error: tf.errors.OpError) -> Exception:
    """What a worker said about its data, if it was that; else the error."""
    said = re.search(r"RuntimeError: (worker \d+: [^\n]*)", error.message)
    return UserError(f"the data cannot be read: {said[1]}") if said else error
