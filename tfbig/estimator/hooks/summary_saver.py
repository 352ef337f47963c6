"""SummarySaverHook: writes TensorFlow 1 summaries of a step for TensorBoard."""

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook, Timer


class SummarySaverHook(Hook):
    """Writes the results of tf.compat.v1.summary operations at intervals.

    Example:

        summary = tf.compat.v1.summary.scalar("accuracy", accuracy)     # inside model_fn
        hook = tfbig.estimator.SummarySaverHook(100, output_dir="runs/iris", summary_op=summary)
        return tfbig.EstimatorSpec(mode, …, training_hooks=[hook])

    Args:
        save_steps, save_secs: the interval in steps or seconds; exactly one of them.
        output_dir: the folder for the event files.
        summary_writer, scaffold: must be None; use output_dir and summary_op.
        summary_op: the result of tf.compat.v1.summary.scalar or a similar function, or a list of
            such results.
        clock: returns the time in seconds; for tests.
    """

    def __init__(
        self,
        save_steps: int | None = None,
        save_secs: float | None = None,
        output_dir: str | None = None,
        summary_writer: None = None,
        scaffold: None = None,
        summary_op: Any = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        if summary_writer is not None or scaffold is not None or summary_op is None:
            raise UserError(
                "SummarySaverHook: writers and scaffolds of TensorFlow 1 need a session; pass "
                "output_dir and summary_op."
            )
        if not output_dir:
            raise UserError("SummarySaverHook(output_dir=None): expected the path of a directory.")
        names = ("save_steps", "save_secs")
        self._timer = Timer("SummarySaverHook", save_steps, save_secs, names, clock=clock)
        self.stop_every = self._timer.steps
        self.summary_op, self._output_dir = summary_op, output_dir
        self._writer: Any = None

    @override
    def begin(self, step: int) -> None:
        self._timer.reset()

    @override
    def before_run(self, step: int, fetch: Callable[[Any], Any]) -> None:
        if not self._timer.due(step):
            return
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._output_dir)
        with self._writer.as_default(), tf.summary.record_if(True):
            for summary in keras.tree.flatten(fetch(self.summary_op)):
                tf.summary.experimental.write_raw_pb(bytes(summary), step + 1)

    @override
    def on_checkpoint(self, step: int, path: str) -> None:
        if self._writer is not None:
            self._writer.flush()

    @override
    def finish(self) -> None:
        self.close()

    @override
    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
