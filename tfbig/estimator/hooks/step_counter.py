"""StepCounterHook: reports steps per second, in the log and for TensorBoard."""

import logging
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook, Timer

log = logging.getLogger("tfbig")


class StepCounterHook(Hook):
    """Reports the number of steps per second.

    Example: `tfbig.estimator.StepCounterHook(every_n_steps=100, output_dir="runs/iris")`

    Args:
        every_n_steps, every_n_secs: the interval; set one of them, and the other to None.
        output_dir: the folder of the event files for `global_step/sec`; None to log only.
        summary_writer: must be None; use output_dir.
        clock: returns the time in seconds; for tests.
    """

    def __init__(
        self,
        every_n_steps: int | None = 100,
        every_n_secs: float | None = None,
        output_dir: str | None = None,
        summary_writer: None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        if summary_writer is not None:
            raise UserError(
                "StepCounterHook(summary_writer=…): writers of TensorFlow 1 need a session; pass "
                "output_dir."
            )
        names = ("every_n_steps", "every_n_secs")
        self._timer = Timer("StepCounterHook", every_n_steps, every_n_secs, names, clock=clock)
        self.stop_every = self._timer.steps
        self._output_dir, self._clock = output_dir, clock
        self._last: tuple[int, float] | None = None

    @override
    def begin(self, step: int) -> None:
        self._timer.reset()
        self._last = None

    @override
    def before_run(self, step: int, fetch: Callable[[Any], Any]) -> None:
        if self._last is None:
            self._timer.due(step)
            self._last = (step, self._clock())

    @override
    def after_run(self, step: int, logs: dict[str, float]) -> None:
        if not self._timer.due(step):
            return
        now = self._clock()
        rate = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        log.info("global_step/sec: %g", rate)
        if self._output_dir is not None:
            writer = tf.summary.create_file_writer(self._output_dir)
            summary = tf.compat.v1.Summary()
            summary.value.add(tag="global_step/sec", simple_value=rate)
            with writer.as_default(), tf.summary.record_if(True):
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)
            writer.close()
