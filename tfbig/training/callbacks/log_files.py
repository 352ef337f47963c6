"""The CSV and event files of callbacks in a resumed run."""

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
    """Removes what a killed process wrote after its last checkpoint, as those steps run again.

    A CSVLogger continues after the rows of finished epochs, even without append=True. A TensorBoard
    and the summaries in the model_dir continue after the events that were written before the
    checkpoint; otherwise TensorBoard would show the later events twice.

    Args:
        callbacks: all callbacks of the run.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]):
        callbacks = list(callbacks)
        self._boards = [c for c in callbacks if isinstance(c, keras.callbacks.TensorBoard)]
        self._loggers = [c for c in callbacks if isinstance(c, keras.callbacks.CSVLogger)]
        self._append = [logger.append for logger in self._loggers]
        self._columns: list[list[str] | None] = [None] * len(self._loggers)
        self._rows_before: list[int] = []  # rows of other runs, which are kept

    def begin(self, model_dir: str | None, epochs: int, state: dict[str, Any] | None) -> None:
        """Called before the callbacks open their files.

        Args:
            model_dir: the model_dir of the run.
            epochs: the number of finished epochs.
            state: the result of `state` in an earlier process; None in a new run.
        """
        rows_before = state["rows_before"] if state else []
        for number, logger in enumerate(self._loggers):
            logger.append_header = True  # Keras decides again if it appends
            if number < len(rows_before):  # the earlier process had it too
                self._rows_before.append(rows_before[number])
                self._columns[number] = _truncate_rows(logger, rows_before[number], epochs)
                logger.append = True
            else:
                self._rows_before.append(len(_rows(logger)[1:]) if logger.append else 0)
        if state:
            folders = [os.path.join(model_dir, "summaries")] if model_dir else []
            folders += [
                os.path.join(b.log_dir, f) for b in self._boards for f in ("train", "validation")
            ]
            for folder in folders:
                truncate_events(folder, state["time"])

    def opened(self) -> None:
        """Called after the callbacks have opened their files."""
        for logger, append, columns in zip(self._loggers, self._append, self._columns, strict=True):
            logger.append = append
            if columns is not None:
                logger.keys = columns

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint stores: the time, and the number of rows of other runs."""
        return {"time": time.time(), "rows_before": self._rows_before}

    def epoch_end(self, logs: dict[str, Any]) -> None:
        """Called with the logs of an epoch before a CSVLogger writes its row."""
        for number, columns in enumerate(self._columns):
            missing = [name for name in logs if name not in columns] if columns else []
            if missing:
                log.warning(
                    "CSVLogger continues with the columns of %s, which has no column for %s; use "
                    "another filename to include it",
                    self._loggers[number].filename,
                    ", ".join(missing),
                )
            self._columns[number] = None  # warn once


def truncate_events(folder: str, since: float) -> None:
    """Removes the events that were written after a time from the event files of a folder.

    Args:
        folder: a folder with TensorBoard's event files; it may be empty or missing.
        since: seconds since 1970, as returned by time.time().
    """
    for path in tf.io.gfile.glob(os.path.join(folder, "events.out.tfevents.*")):
        if tf.io.gfile.stat(path).mtime_nsec / 1e9 <= since:
            continue
        kept, truncated = [], False
        try:
            for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                if event.wall_time <= since or event.HasField("file_version"):
                    kept.append(record)
                else:
                    truncated = True
        except tf.errors.DataLossError:
            truncated = True  # the process was killed while it wrote the last record
        if truncated:
            temporary = os.path.join(folder, f"cut-{os.getpid()}.tmp")
            with tf.io.TFRecordWriter(temporary) as writer:
                for record in kept:
                    writer.write(record)
            tf.io.gfile.rename(temporary, path, overwrite=True)


def _rows(logger: keras.callbacks.CSVLogger) -> list[list[str]]:
    """Returns all rows of a logger's file, the header first; [] if the file does not exist."""
    if not tf.io.gfile.exists(logger.filename):
        return []
    with tf.io.gfile.GFile(logger.filename) as file:
        return list(csv.reader(io.StringIO(file.read(), newline=""), delimiter=logger.sep))


def _truncate_rows(logger: keras.callbacks.CSVLogger, before: int, epochs: int) -> list[str] | None:
    """Keeps the first `before` rows and those of the first `epochs` epochs; returns the columns."""
    rows = _rows(logger)
    if not rows or rows[0][:1] != ["epoch"]:
        return None
    kept = rows[: 1 + before]
    kept += [r for r in rows[1 + before :] if r and r[0].isdecimal() and int(r[0]) < epochs]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=logger.sep).writerows(kept)
    temporary = f"{logger.filename}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(text.getvalue())
    tf.io.gfile.rename(temporary, logger.filename, overwrite=True)
    return rows[0][1:]
