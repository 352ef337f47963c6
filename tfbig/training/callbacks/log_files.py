"""The files that callbacks write rows and events to, in a run that goes on."""

import csv
import io
import logging
import os
import time
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

log = logging.getLogger("tfbig")


class LogFiles:
    """Takes away what a killed process wrote after its last checkpoint, which is run again.

    A CSVLogger goes on with the rows of finished epochs, whether append is set or not; a
    TensorBoard and the model_dir's summaries with the events that were written before the
    checkpoint. TensorBoard would show the others beside those that are written again.

    Args:
        callbacks: of all kinds.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]):
        callbacks = list(callbacks)
        self._boards = [c for c in callbacks if isinstance(c, keras.callbacks.TensorBoard)]
        self._loggers = [c for c in callbacks if isinstance(c, keras.callbacks.CSVLogger)]
        self._append = [logger.append for logger in self._loggers]
        self._columns: list[list[str] | None] = [None] * len(self._loggers)
        self._rows_before: list[int] = []  # of other runs, which stay

    def begin(self, model_dir: str | None, epochs: int, kept: dict[str, Any] | None) -> None:
        """Called before the callbacks open their files.

        Args:
            model_dir: of the run.
            epochs: how many are finished.
            kept: what `state` returned in an earlier process; None in a new run.
        """
        rows_before = kept["rows_before"] if kept else []
        for number, logger in enumerate(self._loggers):
            logger.append_header = True  # Keras looks again if it appends
            if number < len(rows_before):  # it was there in the earlier process
                self._rows_before.append(rows_before[number])
                self._columns[number] = _cut_rows(logger, rows_before[number], epochs)
                logger.append = True
            else:
                self._rows_before.append(len(_rows(logger)[1:]) if logger.append else 0)
        if kept:
            folders = [os.path.join(model_dir, "summaries")] if model_dir else []
            folders += [
                os.path.join(b.log_dir, f) for b in self._boards for f in ("train", "validation")
            ]
            for folder in folders:
                cut_events(folder, kept["time"])

    def begun(self) -> None:
        """Called when the files are open."""
        for logger, append, columns in zip(self._loggers, self._append, self._columns, strict=True):
            logger.append = append
            if columns is not None:
                logger.keys = columns

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: until when events are not written again, and others' rows."""
        return {"time": time.time(), "rows_before": self._rows_before}

    def epoch_end(self, logs: dict[str, Any]) -> None:
        """Called with an epoch's logs before a row is made of them."""
        for number, columns in enumerate(self._columns):
            missing = [name for name in logs if name not in columns] if columns else []
            if missing:
                log.warning(
                    "CSVLogger goes on with the columns of %s, which has none for %s; give "
                    "another filename to have them",
                    self._loggers[number].filename,
                    ", ".join(missing),
                )
            self._columns[number] = None  # said once


def cut_events(folder: str, since: float) -> None:
    """Takes the events that were written after a time out of a folder's event files.

    Args:
        folder: of TensorBoard's files; there may be none.
        since: seconds since 1970, as in time.time().
    """
    for path in tf.io.gfile.glob(os.path.join(folder, "events.out.tfevents.*")):
        if tf.io.gfile.stat(path).mtime_nsec / 1e9 <= since:
            continue
        kept, cut = [], False
        try:
            for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                if event.wall_time <= since or event.HasField("file_version"):
                    kept.append(record)
                else:
                    cut = True
        except tf.errors.DataLossError:
            cut = True  # the process was killed while it wrote the last record
        if cut:
            beside = os.path.join(folder, f"cut-{os.getpid()}.tmp")
            with tf.io.TFRecordWriter(beside) as writer:
                for record in kept:
                    writer.write(record)
            tf.io.gfile.rename(beside, path, overwrite=True)


def _rows(logger: keras.callbacks.CSVLogger) -> list[list[str]]:
    """All rows of a logger's file, the header first; [] if there is none."""
    if not tf.io.gfile.exists(logger.filename):
        return []
    with tf.io.gfile.GFile(logger.filename) as file:
        return list(csv.reader(io.StringIO(file.read(), newline=""), delimiter=logger.sep))


def _cut_rows(logger: keras.callbacks.CSVLogger, before: int, epochs: int) -> list[str] | None:
    """Leaves the first `before` rows and those of the first epochs; returns the columns."""
    rows = _rows(logger)
    if not rows or rows[0][:1] != ["epoch"]:
        return None
    kept = rows[: 1 + before]
    kept += [r for r in rows[1 + before :] if r and r[0].isdecimal() and int(r[0]) < epochs]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=logger.sep).writerows(kept)
    beside = f"{logger.filename}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(beside, "w") as file:
        file.write(text.getvalue())
    tf.io.gfile.rename(beside, logger.filename, overwrite=True)
    return rows[0][1:]
