"""Summaries: writes the metrics of a run as TensorBoard scalars."""

import os
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.training.callbacks.callback import LoopCallback

_RATES = ("steps_per_sec", "examples_per_sec")
# The metadata that tf.summary.scalar writes. That function needs the tensorboard package, which
# training does not depend on; tf.summary.write is part of TensorFlow.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


class Summaries(LoopCallback):
    """Writes the loss, metrics, learning rate and throughput for TensorBoard.

    Training and evaluation are one TensorBoard run, the directory `<model_dir>/summaries`, with the
    global step as the x-axis: train/loss, train/<metric>, train/learning_rate,
    rates/steps_per_sec, rates/examples_per_sec, eval/<metric>. Without a model_dir, nothing is
    written.

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

    @override
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.close()
        if self.run.model_dir is None:
            return
        # Each process writes its own file.
        self._writer = tf.summary.create_file_writer(os.path.join(self.run.model_dir, "summaries"))

    @override
    def on_summary(self, step: int, logs: dict[str, float]) -> None:
        self._write(
            step, {f"{'rates' if n in _RATES else 'train'}/{n}": v for n, v in logs.items()}
        )

    @override
    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        self._write(step, {f"eval/{name}": value for name, value in metrics.items()})

    @override
    def on_checkpoint(self, step: int, path: str) -> None:
        # Steps before a checkpoint never run again, so a kill must not lose their summaries.
        if self._writer is not None:
            self._writer.flush()

    @override
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes the event file, if one is open."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        if self._writer is None:
            return
        # A TensorBoard callback with an update_freq disables summaries between its steps.
        with self._writer.as_default(), tf.summary.record_if(True):
            for tag, value in scalars.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), step, metadata=_SCALAR)
