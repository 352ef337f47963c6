"""What all tests share."""

import gc
import os
import pathlib

import pytest
from absl import flags

from tests import harness

_MOST_BYTES = 6 * 2**30  # of a process of pytest; there are two of them

harness.keep_to_own_ports()
# Python's collector would look through thousands of TensorFlow's graphs in the middle of a test,
# which takes seconds each time. `collect_garbage` does so when memory is needed.
gc.disable()


@pytest.fixture(scope="session", autouse=True)
def end_iterators_at_once():
    """Destroys the iterators of a test without a wait."""
    from tests import iterators  # imports TensorFlow, which the process of all workers need not

    iterators.end_at_once()


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


@pytest.fixture
def own_flags():
    """Forgets the absl flags of programs that a test imports, since other programs define them."""
    known = set(flags.FLAGS)
    yield
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)
