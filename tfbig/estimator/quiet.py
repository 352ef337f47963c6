"""Hides what TensorFlow says of the older functions that canned estimators use."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def quiet_deprecations() -> Iterator[None]:
    """Hides TensorFlow's notes that its older functions are deprecated; they work on."""
    logger = tf.get_logger()
    hidden = _Deprecations()
    logger.addFilter(hidden)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`layer\.(add_variable|updates)`")
            yield
    finally:
        logger.removeFilter(hidden)


class _Deprecations(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(note in str(record.msg) for note in ("deprecated", "Trapezoidal rule"))
