"""Throughput: measures the speed of a run without its first calls."""

import logging
import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from tfbig.errors import UserError
from tfbig.training.callbacks.callback import LoopCallback

log = logging.getLogger("tfbig")


class Throughput(LoopCallback):
    """Measures steps and examples per second over a run, without its first calls.

    The first call of the loop traces and compiles, and so do the next ones while the loop tries
    settings. The clock starts at the end of the call in which this process has finished
    `skip_steps` updates. Evaluations are not counted; checkpoints and other callbacks are. The
    rates are logged in one line at the end, and are available as two attributes.

    Example:

    ```python
    throughput = tfbig.callbacks.Throughput(skip_steps=200)
    tfbig.train_distributed(model_fn, input_fn, max_steps=2000, callbacks=[throughput])
    print(throughput.examples_per_sec)
    ```

    Args:
        skip_steps: int, updates before the clock starts; the first call is never measured.
        clock: a function that returns seconds, for tests.

    Attributes:
        steps_per_sec: updates per second, a float; None until a call was measured.
        examples_per_sec: steps_per_sec times the global batch size.

    Raises:
        UserError: `skip_steps` is not an int of 0 or more.
    """

    def __init__(self, skip_steps: int = 50, *, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        if isinstance(skip_steps, bool) or not isinstance(skip_steps, int) or skip_steps < 0:
            raise UserError(
                f"Throughput(skip_steps={skip_steps!r}): expected the number of updates to skip, "
                "an int of 0 or more; write for example Throughput(skip_steps=50)."
            )
        self.skip_steps = skip_steps
        self.steps_per_sec: float | None = None
        self.examples_per_sec: float | None = None
        self._clock = clock
        self._restart()

    def _restart(self) -> None:
        self.steps_per_sec = self.examples_per_sec = None
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None
        self._paused = 0.0  # seconds in evaluations since the clock started
        self._paused_at_last = 0.0
        self._test_began: float | None = None

    @override
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._restart()

    @override
    def on_calls(self, step: int, logs: dict[str, float]) -> None:
        if self._first is not None:
            self._last = (self._clock(), step)
            self._paused_at_last = self._paused
        elif step - self.run.start_step >= self.skip_steps:
            self._first = (self._clock(), step)

    @override
    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._test_began = self._clock()

    @override
    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._test_began is not None and self._first is not None:
            # An evaluation cannot overlap a call, so it began after the clock started.
            self._paused += self._clock() - self._test_began
        self._test_began = None

    @override
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # The time after the last call (the last evaluation and checkpoint) is not training.
        if self._last is None or self._last[1] == self._first[1]:
            log.info(
                "throughput: not measured, the run ended before a call after the first %d updates",
                self.skip_steps,
            )
            return
        seconds = self._last[0] - self._first[0] - self._paused_at_last
        steps = self._last[1] - self._first[1]
        self.steps_per_sec = steps / seconds if seconds > 0 else float("inf")
        self.examples_per_sec = self.steps_per_sec * self.run.batch_size
        log.info(
            "throughput: %.6g steps/s, %.6g examples/s over %d steps (batch %d, %d replicas)",
            self.steps_per_sec,
            self.examples_per_sec,
            steps,
            self.run.batch_size,
            self.run.num_replicas,
        )
