"""Calls of the traced loop: many steps each, compiled where that can be done."""

import ctypes
import logging
import os
import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Stack
from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.step.own_train_step import OwnStep, check_parts
from tfbig.training.step.parts import Share
from tfbig.training.step.staleness import StalenessStats
from tfbig.training.step.step import Step

log = logging.getLogger("tfbig")

_CANNOT_COMPILE = re.compile(
    r"unsupported operations|not compilable|XLA_\w+_JIT|compilation|Compilation|"
    r"must be a compile-time constant|No registered '\w+' OpKernel for XLA|UNIMPLEMENTED"
)


class LoopResult(NamedTuple):
    """What a call reports.

    Attributes:
        loss_sum: the sum over its steps of loss times examples.
        examples: how many.
        nonfinite: the place in the stack of the first loss that is not finite, or -1. Where the
            loss is scaled, its step was skipped, and the sums are without it.
        steps: how many batches there were.
        staleness: of asynchronous steps, else None.
    """

    loss_sum: float
    examples: float
    nonfinite: int
    steps: int
    staleness: StalenessStats | None = None


def tallied(i, loss, share: Share, skips: bool, loss_sum, examples, nonfinite) -> tuple:
    """The sums that `LoopResult` reports, with one more step, the `i`th; in a trace.

    Args:
        i: int32 scalar.
        loss: float32 scalar.
        share: what the batch had.
        skips: steps whose loss is not finite are skipped.
        loss_sum, examples, nonfinite: the sums so far.
    """
    count = tf.cast(share.size, tf.float32)
    finite = tf.math.is_finite(loss)
    bad = (nonfinite < 0) & ~finite
    if skips:
        loss, count = tf.where(finite, loss, 0.0), tf.where(finite, count, 0.0)
    return loss_sum + loss * count, examples + count, tf.where(bad, i, nonfinite)


class LoopFunction:
    """Runs stacks of batches through one mode of a program.

    Two functions are traced when they are needed: one for batches of the full size (or padded,
    where padding is exact), which may be compiled, and one for batches of any size. The smaller
    batch at the end of each pass is compiled too, in the same function, where it is known.

    Args:
        program, placement: what and where.
        feed: tells the shapes.
        training: train or evaluate.
        config: gradient_aggregation and accumulation_steps.
        jit: compile with XLA; if it fails, fall back unless `insist`.
        insist: raise an error if it cannot be compiled.
    """

    def __init__(
        self,
        program: Program,
        placement: Placement,
        feed: Feed,
        *,
        training: bool,
        config: RunConfig,
        jit: bool,
        insist: bool = False,
    ):
        self._program, self._placement, self._feed = program, placement, feed
        self._training, self._config = training, config
        self.jit, self._insist = jit, insist
        self._even: Any = None
        self._exact: Any = None
        self._compiled = False
        self._own = program.runs_itself(training)
        self._pads = program.exact_with_padding and feed.static and not self._own
        self._has_even = feed.static and (self._pads or feed.full)
        self._traced_odd: int | None = None

    def run(self, stack: Stack, first: int) -> LoopResult:
        """Runs all the batches of a stack; `first` is the global step of its first one."""
        if self._own:
            check_parts(stack, self._placement, self._training)
        loss_sum, examples, nonfinite = 0.0, 0.0, -1
        for start, stop, exact in self._runs(stack):
            ran = self._call(stack, start, stop, exact, first)
            loss_sum, examples = loss_sum + ran[0], examples + ran[1]
            nonfinite = nonfinite if nonfinite >= 0 else ran[2]
        return LoopResult(loss_sum, examples, nonfinite, stack.steps)

    def trace(self, stack: Stack) -> None:
        """Traces what the first batches of a stack need, before anything is run."""
        _, _, exact = next(self._runs(stack))
        self._function(exact)

    def run_untraced(self, stack: Stack, place: int, first: int) -> None:
        """Runs one batch by the function that is never compiled, traced anew or not at all."""
        function = self._traced(exact=True, jit=False)
        shares = Share(stack.counts, stack.sizes, stack.offsets)
        function(stack.values, shares, np.int32(place), np.int32(place + 1), np.int64(first))

    def _runs(self, stack: Stack):
        """Splits a stack into runs of batches that the same function can take."""
        if stack.steps == 0:
            return
        sizes = stack.sizes[: stack.steps]  # not counts: all workers call the same functions
        fits = np.isin(sizes, [self._feed.batch_size, self._odd() or self._feed.batch_size])
        exact = ~(fits | self._pads) | (not self._has_even)
        # Of a batch of bad records there is nothing to evaluate; in training there is none such.
        left_out = (sizes == 0) & (not self._training)
        kind = np.where(left_out, 2, exact)
        for run in np.split(np.arange(stack.steps), np.flatnonzero(np.diff(kind)) + 1):
            if not left_out[run[0]]:
                yield int(run[0]), int(run[-1]) + 1, bool(exact[run[0]])

    def _call(self, stack: Stack, start: int, stop: int, exact: bool, first: int):
        arguments = (
            stack.values,
            Share(*map(tf.constant, (stack.counts, stack.sizes, stack.offsets))),
            *map(tf.constant, (start, stop)),
            tf.constant(first, tf.int64),
        )
        function = self._function(exact)
        if exact or self._compiled:
            return _numbers(function(*arguments))
        self._compiled = True
        return self._first_call(arguments)

    def _function(self, exact: bool):
        if exact:
            self._exact = self._exact or self._concrete(exact=True, jit=False)
            return self._exact
        if self._even is None or self._traced_odd != self._odd():
            self._traced_odd, self._compiled = self._odd(), False
            self._even = self._concrete(exact=False, jit=self.jit)
        return self._even

    def _odd(self) -> int | None:
        """The size of smaller batches that the compiled function takes besides full ones.

        A function of the data's position, so that a resumed run computes the same bits.
        """
        whole = self.jit and self._placement.compiles_whole_loop
        if not (whole and self._training) or self._pads or not self._has_even:
            return None
        return self._feed.odd if self._config.accumulation_steps == 1 else None

    def _concrete(self, *, exact: bool, jit: bool):
        """A function of one signature, which is called in a third of the time."""
        return self._traced(exact=exact, jit=jit).get_concrete_function()

    def _first_call(self, arguments):
        try:
            if self.jit:  # no step at all: compiles, so that its memory can be given back
                self._even(*arguments[:2], tf.constant(0), tf.constant(0), arguments[-1])
                _give_memory_back()
            return _numbers(self._even(*arguments))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            if not (self.jit and _CANNOT_COMPILE.search(str(error))):
                raise
            name = unsupported_operation(str(error))
            if self._insist:
                raise UserError(
                    f"jit_compile=True, but XLA cannot compile {name}; write "
                    'jit_compile="auto" or False.'
                ) from error
        log.info("XLA cannot compile %s; the step runs as a TensorFlow graph instead", name)
        self.jit = False
        self._even = self._concrete(exact=False, jit=False)
        return _numbers(self._even(*arguments))

    def _traced(self, *, exact: bool, jit: bool):
        whole = jit and self._placement.compiles_whole_loop
        largest = -(-self._feed.batch_size // self._feed.workers)
        step = self._step(largest if exact else self._feed.rows, exact, jit)
        odd = None if exact else self._odd()
        odd_step = odd and self._step(odd, exact, jit)

        def run(values, share, i, number):
            def full():
                return self._placement.run(step, (values, share, i, number))

            def smaller():
                fewer = tf.nest.map_structure(lambda t: t[:, :odd], values)
                return self._placement.run(odd_step, (fewer, share, i, number))

            return tf.cond(share.size == odd, smaller, full) if odd else full()

        def loop(values, shares, start, stop, first):
            self._program.select(self._training)
            with self._program.tracing():
                return loop_traced(values, shares, start, stop, first)

        def loop_traced(values, shares, start, stop, first):
            skips = self._training and self._program.scales_loss

            def body(i, loss_sum, examples, nonfinite):
                number = first + tf.cast(i, tf.int64)
                share = Share(*(numbers[i] for numbers in shares))
                loss = run(values, share, i, number)
                return (i + 1, *tallied(i, loss, share, skips, loss_sum, examples, nonfinite))

            return tf.while_loop(
                lambda i, *_: i < stop,
                body,
                (start, tf.constant(0.0), tf.constant(0.0), tf.constant(-1)),
                parallel_iterations=1,
            )[1:]

        scalar = tf.TensorSpec([], tf.int32)
        numbers = tf.TensorSpec([self._feed.capacity], tf.int32)
        signature = (self._stack_spec(), Share(numbers, numbers, numbers))
        return tf.function(
            loop,
            input_signature=(*signature, scalar, scalar, tf.TensorSpec([], tf.int64)),
            autograph=False,
            jit_compile=True if whole else None,
        )

    def _step(self, rows: int, exact: bool, jit: bool) -> Step | OwnStep:
        whole = jit and self._placement.compiles_whole_loop
        if self._own:
            where = self._program, self._placement
            return OwnStep(*where, training=self._training, rows=rows, exact=exact)
        return Step(
            self._program,
            self._placement,
            training=self._training,
            aggregation=self._config.gradient_aggregation,
            micro_batches=self._config.accumulation_steps,
            rows=rows,
            exact=exact,
            compile_part=jit and not whole and not self._program.couples_replicas,
            find_nan=not jit,
        )

    def _stack_spec(self):
        rows = self._feed.rows if self._feed.static else None
        return tf.nest.map_structure(
            lambda s: tf.TensorSpec([self._feed.capacity, rows, *s.shape[1:]], s.dtype),
            self._feed.element_spec,
        )


def _give_memory_back() -> None:
    """Returns what the compiler has freed to the system; glibc would keep it.

    That is 100 MB for a Transformer of 3.3 million parameters, more than its gradients.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # another C library has none
        trim(0)


def unsupported_operation(message: str) -> str:
    """The operation that an XLA error is about, for a log line."""
    for pattern in (
        r"OpKernel for XLA devices compatible with node \{\{node ([^}]+)\}\}",
        r"unsupported operations.*?: ?(\w+)",
        r"\{\{node ([^}]+)\}\}",
        r"Op type: (\w+)",
        r"custom call.*?\"(\w+)\"",
    ):
        found = re.search(pattern, message, re.S)
        if found:
            return f"the operation {found[1]}"
    return f"the step ({' '.join(message.split())[:160]})"


def _numbers(results) -> tuple[float, float, int]:
    loss_sum, examples, nonfinite = (r.numpy() for r in results)
    return float(loss_sum), float(examples), int(nonfinite)
