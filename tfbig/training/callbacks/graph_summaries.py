"""GraphSummaries: writes the tf.compat.v1.summary operations of a model_fn for TensorBoard."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.training.callbacks.callback import LoopCallback


class GraphSummaries(LoopCallback):
    """Writes TensorFlow 1 summaries to `<model_dir>/summaries`, as tf.estimator did.

    They are computed on the first of every `save_summary_steps` steps: 1, n + 1, 2n + 1, …

    Args:
        names: the names of the summary operations' tensors in TRAIN mode.
    """

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self._names = list(names)
        self._writer: Any = None

    @override
    def on_call_begin(self, step: int, fetch: Callable[[Any], Any]) -> None:
        if self.run.model_dir is None or step % self.run.summary_steps:
            return
        if self._writer is None:
            folder = os.path.join(self.run.model_dir, "summaries")
            self._writer = tf.summary.create_file_writer(folder, filename_suffix=".tf1")
        with self._writer.as_default(), tf.summary.record_if(True):
            for summary in fetch(self._names):
                tf.summary.experimental.write_raw_pb(bytes(summary), step + 1)

    @override
    def on_checkpoint(self, step: int, path: str) -> None:
        if self._writer is not None:
            self._writer.flush()

    @override
    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
