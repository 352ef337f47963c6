"""An evaluation's figures as TensorBoard events in eval folders, written and read again."""

import glob
import os
from typing import Any

import tensorflow as tf

_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


def eval_dir(model_dir: str, name: str | None = None) -> str:
    """Where the figures of evaluations of a name are: `eval`, or `eval_<name>`."""
    return os.path.join(model_dir, f"eval_{name}" if name else "eval")


def write_eval_metrics(folder: str, step: int, metrics: dict[str, float]) -> None:
    """Writes one evaluation's figures; they are on the disk when this returns."""
    writer = tf.summary.create_file_writer(folder)
    with writer.as_default():
        for name, value in metrics.items():
            if name != "global_step":
                value = tf.constant(value, tf.float32)
                tf.summary.write(name, value, step, metadata=_SCALAR)
    writer.close()


def read_eval_metrics(folder: str) -> dict[int, dict[str, float]]:
    """Reads all evaluations in a folder, of tfbig or tf.estimator.

    Example: `read_eval_metrics(estimator.eval_dir())[1000]["accuracy"]`

    Args:
        folder: of `Estimator.eval_dir`; one that is not there has no evaluations.

    Returns:
        By global step, in their order, the figures by name.
    """
    found: dict[int, dict[str, float]] = {}
    for path in sorted(glob.glob(os.path.join(folder, "*tfevents*"))):
        try:
            for record in tf.data.TFRecordDataset(path):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    number = _number(value)
                    if number is not None:
                        found.setdefault(event.step, {})[value.tag] = number
        except tf.errors.DataLossError:
            continue  # the last record of a process that was killed is cut; those before count
    return dict(sorted(found.items()))


def _number(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor"):
        array = tf.make_ndarray(value.tensor)
        return float(array) if array.ndim == 0 and array.dtype.kind == "f" else None
    return None
