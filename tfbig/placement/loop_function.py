"""The traced loop: many steps in one call, compiled where that is possible."""

import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Share, Stack
from tfbig.errors import UserError
from tfbig.placement import process_memory
from tfbig.placement.staleness import StalenessStats

log = logging.getLogger("tfbig")

_CANNOT_COMPILE = re.compile(
    r"unsupported operations|not compilable|XLA_\w+_JIT|compilation|Compilation|"
    r"must be a compile-time constant|No registered '\w+' OpKernel for XLA|UNIMPLEMENTED"
)


class LoopResult(NamedTuple):
    """What a call of the loop reports.

    Attributes:
        loss_sum: the sum over its steps of loss times examples.
        examples: how many examples its batches had.
        nonfinite: the index in the stack of the first loss that is not finite, or -1. Where the
            loss is scaled, that step was skipped, and the sums do not include it.
        steps: how many batches there were.
        staleness: of asynchronous steps, else None.
    """

    loss_sum: float
    examples: float
    nonfinite: int
    steps: int
    staleness: StalenessStats | None = None


class Tally(NamedTuple):
    """The sums that a LoopResult reports, as tensors inside a trace.

    Attributes:
        loss_sum, examples: float32 scalars.
        nonfinite: int32 scalar.
    """

    loss_sum: Any
    examples: Any
    nonfinite: Any

    @classmethod
    def zero(cls) -> "Tally":
        """The sums of no step."""
        return cls(tf.constant(0.0), tf.constant(0.0), tf.constant(-1))

    def add(self, i: tf.Tensor, loss: tf.Tensor, share: Share, skips: bool) -> "Tally":
        """The sums with one more step.

        Args:
            i: int32 scalar, the step's index in the stack.
            loss: float32 scalar.
            share: the batch's sizes.
            skips: whether steps whose loss is not finite are skipped.
        """
        count = tf.cast(share.size, tf.float32)
        finite = tf.math.is_finite(loss)
        bad = (self.nonfinite < 0) & ~finite
        if skips:
            loss, count = tf.where(finite, loss, 0.0), tf.where(finite, count, 0.0)
        return Tally(
            self.loss_sum + loss * count,
            self.examples + count,
            tf.where(bad, i, self.nonfinite),
        )


class LoopFunction:
    """Runs stacks of batches through one mode of a program, in this process.

    Two functions are traced when they are needed: one for batches of the full size (or padded,
    where padding is exact), which may be compiled, and one for batches of any size. The compiled
    function also takes the smaller batch at the end of each pass, where its size is known.

    Args:
        placement: where the steps run.
        feed: has the shapes of the batches.
        steps: makes the steps (`training.step.StepMaker`).
        jit: compile with XLA; if that fails, run as a TensorFlow graph, unless `insist`.
        insist: raise an error if the step cannot be compiled.

    Attributes:
        jit: whether the function is compiled.
    """

    def __init__(self, placement: Any, feed: Feed, steps: Any, *, jit: bool, insist: bool = False):
        self._placement, self._feed, self._steps = placement, feed, steps
        self._program = steps.program
        self.jit, self._insist = jit, insist
        self._even: Any = None
        self._exact: Any = None
        self._compiled = False
        self._pads = self._program.exact_with_padding and feed.static and not steps.runs_custom_step
        self._has_even = feed.static and (self._pads or feed.full)
        self._traced_odd: int | None = None

    def run(self, stack: Stack, first: int) -> LoopResult:
        """Runs all the batches of a stack.

        Args:
            stack: of the feed.
            first: the global step of its first batch.
        """
        self._steps.check(stack, self._placement)
        loss_sum, examples, nonfinite = 0.0, 0.0, -1
        for start, stop, exact in self._runs(stack):
            arguments = _arguments(stack, start, stop, first)
            loss, count, bad = self._call(arguments, exact)
            loss_sum, examples = loss_sum + loss, examples + count
            nonfinite = nonfinite if nonfinite >= 0 else bad
        return LoopResult(loss_sum, examples, nonfinite, stack.steps)

    def trace(self, stack: Stack) -> None:
        """Traces what the first batches of a stack need, and runs nothing."""
        _, _, exact = next(self._runs(stack))
        self._function(exact)

    def run_untraced(self, stack: Stack, index: int, first: int) -> None:
        """Runs one batch of a stack by a new trace of the function that is never compiled."""
        function = self._traced(exact=True, jit=False)
        shares = Share(stack.counts, stack.sizes, stack.offsets)
        function(stack.values, shares, np.int32(index), np.int32(index + 1), np.int64(first))

    def _runs(self, stack: Stack) -> Iterator[tuple[int, int, bool]]:
        """Splits a stack into runs of batches that the same function can take."""
        if stack.steps == 0:
            return
        sizes = stack.sizes[: stack.steps]  # not counts: all workers call the same functions
        fits = np.isin(sizes, [self._feed.batch_size, self._odd() or self._feed.batch_size])
        exact = ~(fits | self._pads) | (not self._has_even)
        # A batch of bad records only has nothing to evaluate; training has no such batch.
        left_out = (sizes == 0) & (not self._steps.training)
        kind = np.where(left_out, 2, exact)
        for run in np.split(np.arange(stack.steps), np.flatnonzero(np.diff(kind)) + 1):
            if not left_out[run[0]]:
                yield int(run[0]), int(run[-1]) + 1, bool(exact[run[0]])

    def _call(self, arguments: tuple, exact: bool) -> tuple[float, float, int]:
        function = self._function(exact)
        if exact or self._compiled:
            return _numbers(function(*arguments))
        self._compiled = True
        return self._first_call(arguments)

    def _function(self, exact: bool) -> Callable:
        # A function of one signature is called in a third of the time.
        if exact:
            if self._exact is None:
                self._exact = self._traced(exact=True, jit=False).get_concrete_function()
            return self._exact
        if self._even is None or self._traced_odd != self._odd():
            self._traced_odd, self._compiled = self._odd(), False
            self._even = self._traced(exact=False, jit=self.jit).get_concrete_function()
        return self._even

    def _odd(self) -> int | None:
        """The size of the smaller batch that the compiled function takes besides full ones.

        It depends on the data's position only, so that a resumed run computes the same bits.
        """
        whole = self.jit and self._placement.compiles_whole_loop
        if not (whole and self._steps.training) or self._pads or not self._has_even:
            return None
        return self._feed.tail_size if self._steps.config.accumulation_steps == 1 else None

    def _first_call(self, arguments: tuple) -> tuple[float, float, int]:
        try:
            if self.jit:  # a call of no step compiles, so that its memory can be given back
                self._even(*arguments[:2], tf.constant(0), tf.constant(0), arguments[-1])
                # A Transformer of 3.3 million parameters leaves 100 MB, more than its gradients.
                process_memory.trim()
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
        self._even = self._traced(exact=False, jit=False).get_concrete_function()
        return _numbers(self._even(*arguments))

    def _traced(self, *, exact: bool, jit: bool) -> Any:  # a tf.function
        """The tf.function of the loop: (values, shares, start, stop, first step) → Tally."""
        whole = jit and self._placement.compiles_whole_loop
        rows = self._feed.rows if self._feed.static else None
        stack = tf.nest.map_structure(
            lambda s: tf.TensorSpec([self._feed.capacity, rows, *s.shape[1:]], s.dtype),
            self._feed.element_spec,
        )
        scalar = tf.TensorSpec([], tf.int32)
        numbers = tf.TensorSpec([self._feed.capacity], tf.int32)
        signature = (stack, Share(numbers, numbers, numbers), scalar, scalar)
        largest = -(-self._feed.batch_size // self._feed.workers)
        step = self._step(largest if exact else self._feed.rows, exact, jit)
        odd = None if exact else self._odd()
        odd_step = self._step(odd, exact, jit) if odd else None

        def loop(values, shares, start, stop, first):
            self._program.select_mode(self._steps.training)
            with self._program.tracing():
                return self._loop(step, odd_step, odd, values, shares, start, stop, first)

        return tf.function(
            loop,
            input_signature=(*signature, tf.TensorSpec([], tf.int64)),
            autograph=False,
            jit_compile=True if whole else None,
        )

    def _loop(self, step, odd_step, odd, values, shares, start, stop, first) -> Tally:
        """Runs the steps `start` … `stop` - 1 of a stack, inside a trace.

        Args:
            step: for full batches.
            odd_step, odd: for batches with `odd` examples, or None.
            values, shares, start, stop, first: the arguments of the loop.
        """

        def body(i, tally):
            share = Share(*(numbers[i] for numbers in shares))
            number = first + tf.cast(i, tf.int64)
            if odd is None:
                loss = self._placement.run(step, (values, share, i, number))
            else:
                fewer = functools.partial(tf.nest.map_structure, lambda t: t[:, :odd], values)
                loss = tf.cond(
                    share.size == odd,
                    lambda: self._placement.run(odd_step, (fewer(), share, i, number)),
                    lambda: self._placement.run(step, (values, share, i, number)),
                )
            return i + 1, tally.add(i, loss, share, self._steps.skips)

        _, tally = tf.while_loop(
            lambda i, _: i < stop, body, (start, Tally.zero()), parallel_iterations=1
        )
        return tally

    def _step(self, rows: int, exact: bool, jit: bool) -> Callable:
        whole = jit and self._placement.compiles_whole_loop
        return self._steps.make(
            self._placement,
            rows=rows,
            exact=exact,
            compile_part=jit and not whole and not self._program.couples_replicas,
            find_nan=not jit,
        )


def _arguments(stack: Stack, start: int, stop: int, first: int) -> tuple:
    return (
        stack.values,
        Share(*map(tf.constant, (stack.counts, stack.sizes, stack.offsets))),
        *map(tf.constant, (start, stop)),
        tf.constant(first, tf.int64),
    )


def _numbers(tally: Tally) -> tuple[float, float, int]:
    loss_sum, examples, nonfinite = (r.numpy() for r in tally)
    return float(loss_sum), float(examples), int(nonfinite)


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
