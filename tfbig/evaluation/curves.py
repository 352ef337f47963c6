"""Reads the learning curves of a finished run from its summaries."""

import os
from collections.abc import Iterator

import tensorflow as tf

_PREFIXES = {"train/": "", "eval/": "val_"}


def read_history(*folders: str | None) -> list[dict[str, float]]:
    """Returns the history of a run like `TrainResult.history`, without the rates.

    A run that was killed and restarted may have written some steps twice; the later values count.

    Example: `Report(figures, history=read_history("runs/digits")).write("runs/digits")`.

    Args:
        folders: model_dirs of train_distributed; the first one with summaries is read.

    Returns:
        One dict per logged step; [] if no folder has summaries.
    """
    for folder in filter(None, folders):
        files = tf.io.gfile.glob(os.path.join(folder, "summaries", "events.out.tfevents.*"))
        if files:
            return _history(sorted(files))
    return []


def _history(files: list[str]) -> list[dict[str, float]]:
    points: dict[int, dict[str, float]] = {}
    for file in files:
        newer = _scalars(file)
        if newer:
            points = {step: point for step, point in points.items() if step < min(newer)} | newer
    return [{"step": step, **points[step]} for step in sorted(points)]


def _scalars(file: str) -> dict[int, dict[str, float]]:
    points: dict[int, dict[str, float]] = {}
    for event in _events(file):
        for value in event.summary.value:
            for prefix, own_prefix in _PREFIXES.items():
                if value.tag.startswith(prefix):
                    name = own_prefix + value.tag.removeprefix(prefix)
                    number = float(tf.make_ndarray(value.tensor))
                    points.setdefault(event.step, {})[name] = number
    return points


def _events(file: str) -> Iterator[tf.compat.v1.Event]:
    try:
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
            yield tf.compat.v1.Event.FromString(record)
    except tf.errors.DataLossError:  # a killed process leaves a truncated last record
        return
