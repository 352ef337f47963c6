"""What all tests share."""

import pytest

from tests import harness

harness.keep_to_own_ports()


@pytest.fixture
def in_process(tmp_path):
    """Calls a module's function in a process of its own: `in_process(function, *arguments)`."""

    def call(function, *arguments, timeout: float = 120, **environment: str):
        return harness.call(function, tmp_path, *arguments, timeout=timeout, **environment)

    return call
