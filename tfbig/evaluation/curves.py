"""The learning curves of a run that has ended, from the summaries that it left."""

import os
from collections.abc import Iterator

import tensorflow as tf

_PREFIXES = {"train/": "", "eval/": "val_"}


def read_history(*folders: str | None) -> list[dict[str, float]]:
    """A run's history as `TrainResult.history` has it, without the rates; [] if there is none.

    A run that was killed and started again has written some steps twice: the later ones count.

    Example: `Report(figures, history=read_history("runs/digits")).write("runs/digits")`.

    Args:
        folders: model_dirs of train_distributed; the first that holds summaries counts.
    """
    for folder in filter(None, folders):
        files = tf.io.gfile.glob(os.path.join(folder, "summaries", "events.out.tfevents.*"))
        if files:
            return _history(sorted(files))
    return []


def _history(files: list[str]) -> list[dict[str, float]]:
    points: dict[int, dict[str, float]] = {}
    for file in files:
        found = _scalars(file)
        if found:
            points = {step: point for step, point in points.items() if step < min(found)} | found
    return [{"step": step, **points[step]} for step in sorted(points)]


def _scalars(file: str) -> dict[int, dict[str, float]]:
    points: dict[int, dict[str, float]] = {}
    for event in _events(file):
        for value in event.summary.value:
            for prefix, ours in _PREFIXES.items():
                if value.tag.startswith(prefix):
                    name = ours + value.tag.removeprefix(prefix)
                    number = float(tf.make_ndarray(value.tensor))
                    points.setdefault(event.step, {})[name] = number
    return points


def _events(file: str) -> Iterator[tf.compat.v1.Event]:
    try:
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
            yield tf.compat.v1.Event.FromString(record)
    except tf.errors.DataLossError:  # the last record of a process that was killed
        return
