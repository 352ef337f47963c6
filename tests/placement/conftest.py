"""Fixtures of the tests with several tasks."""

import pytest

from tests.harness import free_addresses
from tests.placement.tasks import tasks


@pytest.fixture
def start(tmp_path):
    """Starts a task: `start(function, *arguments)`; tasks that still run at the end are killed."""
    with tasks(tmp_path) as starter:
        yield starter


@pytest.fixture
def addresses():
    """Three free addresses on loopback."""
    return free_addresses(3)
