"""What all tests share."""

import gc
import os
import pathlib

import pytest

from tests import harness

_MOST_BYTES = 6 * 2**30  # of a process of pytest; there are two of them

harness.keep_to_own_ports()
# Python's collector would destroy thousands of TensorFlow's graphs at once, in some test or other,
# which takes it 10 to 80 seconds each time. `collect_garbage` does so when memory is needed.
gc.disable()


@pytest.fixture(scope="session", autouse=True)
def end_iterators_at_once():
    """Turns the tuning of Datasets off, so that an iterator is destroyed without a wait.

    An iterator that tunes its pipeline has a thread for that, and waits for its end. TensorFlow
    2.21 wakes the thread before it sets the flag that the thread reads. On busy cores the thread
    may go back to sleep, for as long as the iterator has lived, up to a minute.
    """
    import tensorflow as tf  # not in the process that only starts the workers

    iterate = tf.data.Dataset.__iter__

    def without_tuning(dataset):
        options = tf.data.Options()
        options.autotune.enabled = False
        return iterate(dataset.with_options(options))

    tf.data.Dataset.__iter__ = without_tuning
    yield
    tf.data.Dataset.__iter__ = iterate


@pytest.fixture(scope="module", autouse=True)
def collect_garbage():
    """Collects garbage after a file of tests if the process has become large."""
    yield
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > _MOST_BYTES:
        gc.collect()


@pytest.fixture
def in_process(tmp_path):
    """Calls a module's function in a process of its own: `in_process(function, *arguments)`."""

    def call(function, *arguments, timeout: float = 120, **environment: str):
        return harness.call(function, tmp_path, *arguments, timeout=timeout, **environment)

    return call
