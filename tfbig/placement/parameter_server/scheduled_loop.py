"""The loop under parameter servers: closures that workers run, many at a time."""

import json
import re
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Share, Stack
from tfbig.data.feeds.index_feed import IndexFeed, array_types
from tfbig.errors import UserError
from tfbig.placement.loop_function import LoopResult, Tally
from tfbig.placement.parameter_server import remote
from tfbig.placement.staleness import StalenessStats, Versions

_CLOSURES_PER_WORKER = 4  # so that no worker waits long for the last ones


class ScheduledLoop:
    """Runs stacks of batch numbers through one mode of a program, on the workers.

    A stack is cut into closures of consecutive batches. A worker that takes a closure reads its
    batches by their numbers, and runs their steps one after the other, while other workers run
    other closures. Each step reads the variables from the ps as they are then, and updates them
    there. A closure returns what it adds to the metrics, and the chief sums that up. So a closure
    that runs again because its worker was lost counts once.

    A model_fn keeps its metrics in variables, of which there is one set, so its evaluation runs
    one closure after the other.

    Args:
        placement: the ParameterServer.
        feed: of batch numbers.
        steps: makes the steps (`training.step.StepMaker`).
        jit: False. Steps that read their variables from other tasks are not compiled.
        insist: no effect here, since `jit` is False.
    """

    def __init__(
        self, placement: Any, feed: IndexFeed, steps: Any, *, jit: bool, insist: bool = False
    ):
        del insist
        self._placement, self._feed, self._steps = placement, feed, steps
        self._program = steps.program
        self.jit = jit
        self._function: Any = None
        self._step: Any = None
        self._versions: Versions | None = None

    def run(self, stack: Stack, first: int) -> LoopResult:
        """Runs all the batches of a stack; `first` is the global step of its first one."""
        before = [v.numpy() for v in self._program.metric_variables]
        scheduled = self._schedule(stack, first, one_by_one=before and not self._program.pure)
        loss_sum, examples, nonfinite, done = 0.0, 0.0, -1, 0
        added: list | None = None
        staleness: StalenessStats | None = None
        for start, value in scheduled:
            loss, count, bad, steps, *metrics = value.fetch()
            if self._steps.training:
                new, metrics = StalenessStats(*map(int, metrics[:3])), metrics[3:]
                staleness = new if staleness is None else staleness.with_(new)
            loss_sum, examples, done = loss_sum + loss, examples + count, done + int(steps)
            if bad >= 0 and nonfinite < 0:
                nonfinite = start + int(bad)
            added = added_up(added, metrics)
        self._add_to_metrics(before, added)
        if self._steps.training:
            self._program.set_step_count(first + done)
        if done < stack.steps:
            self._feed.mark_end(stack, done)
        return LoopResult(float(loss_sum), float(examples), nonfinite, done, staleness)

    def trace(self, stack: Stack) -> None:
        """Traces what a worker runs, and runs nothing."""
        del stack
        self._closure()

    def _schedule(self, stack: Stack, first: int, *, one_by_one: bool) -> list[tuple[int, Any]]:
        """Has all closures of a stack run; returns the first index and the results of each."""
        passes, position = stack.values
        scheduled = []
        for start, steps in self._cut(stack.steps):
            numbers = (passes, position + start, steps, first + start)
            arguments = [tf.constant(n, tf.int64) for n in numbers]
            scheduled.append((start, self._placement.schedule(self._closure(), arguments)))
            if one_by_one:
                self._join()
        self._join()
        return scheduled

    def _join(self) -> None:
        try:
            self._placement.join()
        except tf.errors.OpError as error:
            raise _explained(error) from error

    def _add_to_metrics(self, before: list[np.ndarray], added: list | None) -> None:
        """Sets the metrics' variables to what they held before plus what was added."""
        variables = self._program.metric_variables
        for variable, old, new in zip(variables, before, added or (), strict=bool(added)):
            variable.assign(old + new)

    def _cut(self, steps: int) -> list[tuple[int, int]]:
        """(first index, number of steps) of each closure."""
        if self._steps.config.steps_per_loop != "auto":
            most = self._steps.config.steps_per_loop
        else:
            most = -(-steps // (_CLOSURES_PER_WORKER * self._placement.workers))
        most = max(1, min(most, self._feed.max_batches_per_read))
        return [(start, min(most, steps - start)) for start in range(0, steps, most)]

    def _closure(self) -> Any:
        """The function that a worker runs: (passes, position, steps, first step) → results."""
        if self._function is None:
            self._step = self._steps.make(
                self._placement,
                rows=self._feed.batch_size,
                exact=True,
                find_nan=True,
                adds_metrics=True,
            )
            if self._steps.training:
                count = self._placement.made_beside(
                    None, lambda: tf.Variable(0, False, dtype=tf.int64)
                )
                self._versions = Versions(count, self._steps.config.max_staleness)
            number = tf.TensorSpec([], tf.int64)
            traced = tf.function(self._run_batches, input_signature=[number] * 4, autograph=False)
            self._function = traced.get_concrete_function()
        return self._function

    def _run_batches(self, passes, position, steps, first) -> tuple:
        """Reads batches and runs their steps, inside a trace."""
        self._program.select_mode(self._steps.training)
        values, shares, stop = self._read(passes, position, steps, tf.constant(-1))
        with self._program.tracing():
            zeros = [tf.zeros(v.shape, v.dtype) for v in self._program.metric_variables]
            staleness = [tf.constant(0, tf.int64)] * (3 if self._versions else 0)

            def body(i, tally, staleness, metrics):
                share = Share(*(numbers[i] for numbers in shares))
                number = first + tf.cast(i, tf.int64)
                loss, added, staleness = self._run_step(values, share, i, number, staleness)
                metrics = [a + b for a, b in zip(metrics, added, strict=True)]
                return i + 1, tally.add(i, loss, share, self._steps.skips), staleness, metrics

            _, tally, staleness, metrics = tf.while_loop(
                lambda i, *_: i < stop,
                body,
                (tf.constant(0), Tally.zero(), staleness, zeros),
                parallel_iterations=1,
            )
        return (*tally, stop, *staleness, *metrics)

    def _run_step(self, values, share, i, number, staleness: list) -> tuple:
        """Runs a step; returns its loss, what it adds to the metrics, and the staleness so far."""
        if self._versions is None:
            return *self._step.returning_metrics(values, share, i, number), staleness
        loss, added, now = self._step.asynchronous(values, share, i, number, self._versions)
        seen = StalenessStats(*staleness)
        staleness = [
            seen.total + now.total,
            tf.maximum(seen.most, now.most),
            seen.dropped + now.dropped,
        ]
        return loss, added, staleness

    def _read(self, passes, position, steps, part) -> tuple:
        """Reads the batches, or one part of each (-1: the whole), where the closure runs."""
        spec = self._feed.element_spec
        run_spec = tf.constant(json.dumps(self._placement.run_spec))
        wanted = [run_spec, tf.constant(self._feed.name), passes, position, steps, part]
        *values, counts, sizes, offsets, stop = remote.call(remote.READ, wanted, array_types(spec))
        flat = [
            tf.ensure_shape(value, [None, None, *leaf.shape[1:]])
            for value, leaf in zip(values, tf.nest.flatten(spec), strict=True)
        ]
        shares = Share(*(tf.ensure_shape(numbers, [None]) for numbers in (counts, sizes, offsets)))
        return tf.nest.pack_sequence_as(spec, flat), shares, tf.ensure_shape(stop, [])


def added_up(total: list | None, new: list) -> list:
    """The sums of two lists of arrays; None: the first list is not there yet."""
    return new if total is None else [a + b for a, b in zip(total, new, strict=True)]


def _explained(error: tf.errors.OpError) -> Exception:
    """The error that a worker raised while it read its data; else the given one."""
    said = re.search(r"RuntimeError: (worker \d+: [^\n]*)", error.message)
    return UserError(f"the data cannot be read: {said[1]}") if said else error
