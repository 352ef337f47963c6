"""Writes and reads the results of evaluations, as TensorBoard events in eval folders."""

import glob
import logging
import os
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfbig.programs.vector_metrics import numbers_of, to_scalars

log = logging.getLogger("tfbig")

_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


def eval_dir(model_dir: str, name: str | None = None) -> str:
    """Returns the folder of an evaluation's results: `eval`, or `eval_<name>`."""
    return os.path.join(model_dir, f"eval_{name}" if name else "eval")


def write_eval_metrics(folder: str, step: int, metrics: dict[str, Any]) -> None:
    """Writes the results of one evaluation and closes the file.

    Args:
        folder: of the events.
        step: the global step.
        metrics: by name: a number; an array or a nested structure of numbers, which are written as
            name_0, name_1, …; or a serialized Summary, whose values get the tags name/0, name/1, ….
    """
    writer = tf.summary.create_file_writer(folder)
    with writer.as_default():
        for name, value in to_scalars(numbers_of(metrics)).items():
            if name != "global_step":
                value = tf.constant(value, tf.float32)
                tf.summary.write(name, value, step, metadata=_SCALAR)
        for name, value in metrics.items():
            if isinstance(value, bytes):
                _write_summary(name, value, step)
    writer.close()


def _write_summary(name: str, serialized: bytes, step: int) -> None:
    try:
        summary = tf.compat.v1.Summary.FromString(serialized)
    except DecodeError:
        log.warning("eval_metric_ops[%r] is text but no Summary, so it is not written", name)
        return
    for number, value in enumerate(summary.value):
        value.tag = f"{name}/{number}"
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)


def read_eval_metrics(folder: str) -> dict[int, dict[str, float]]:
    """Reads all evaluations in a folder that tfbig or tf.estimator wrote.

    Example: `read_eval_metrics(estimator.eval_dir())[1000]["accuracy"]`

    Args:
        folder: as returned by `Estimator.eval_dir`; a folder that does not exist has no
            evaluations.

    Returns:
        The metrics by name, by global step, in increasing order of steps.
    """
    evaluations: dict[int, dict[str, float]] = {}
    for path in sorted(glob.glob(os.path.join(folder, "*tfevents*"))):
        try:
            for record in tf.data.TFRecordDataset(path):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    number = _number(value)
                    if number is not None:
                        evaluations.setdefault(event.step, {})[value.tag] = number
        except tf.errors.DataLossError:
            continue  # a killed process leaves a truncated last record; the ones before are valid
    return dict(sorted(evaluations.items()))


def _number(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor"):
        array = tf.make_ndarray(value.tensor)
        return float(array) if array.ndim == 0 and array.dtype.kind == "f" else None
    return None
