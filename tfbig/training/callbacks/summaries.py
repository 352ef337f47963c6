"""Summaries: a run's numbers as TensorBoard scalars."""

import os
from typing import Any

import tensorflow as tf

from tfbig.training.callbacks.callback import LoopCallback

_RATES = ("steps_per_sec", "examples_per_sec")
# The record that tf.summary.scalar writes. That function is part of the tensorboard package,
# which only those who look at summaries need; tf.summary.write is TensorFlow's own.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


class Summaries(LoopCallback):
    """Writes loss, metrics, learning rate and rates for TensorBoard.

    Training and evaluation are one run, the directory `<model_dir>/summaries`, over the global
    step: train/loss, train/<metric>, train/learning_rate, rates/steps_per_sec,
    rates/examples_per_sec, eval/<metric>. Without a model_dir nothing is written.

    Example:

    ```python
    tfbig.train_distributed(
        model_fn, input_fn, model_dir="runs/digits", max_steps=2000,
        callbacks=[tfbig.callbacks.Summaries()],
    )
    # then: tensorboard --logdir runs/digits
    ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.close()
        if self.run.model_dir is None:
            return
        # A new file for each process.
        self._writer = tf.summary.create_file_writer(os.path.join(self.run.model_dir, "summaries"))

    def on_summary(self, step: int, logs: dict[str, float]) -> None:
        self._write(
            step, {f"{'rates' if n in _RATES else 'train'}/{n}": v for n, v in logs.items()}
        )

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        self._write(step, {f"eval/{name}": value for name, value in metrics.items()})

    def on_checkpoint(self, step: int, path: str) -> None:
        # What was seen before a checkpoint is never run again, so it must not be lost by a kill.
        if self._writer is not None:
            self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes the event file; nothing happens if there is none."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        if self._writer is None:
            return
        # A TensorBoard callback with an update_freq switches summaries off between its steps.
        with self._writer.as_default(), tf.summary.record_if(True):
            for tag, value in scalars.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), step, metadata=_SCALAR)
