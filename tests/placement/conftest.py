"""What tests of clusters share."""

import pytest

from tests.harness import free_addresses
from tests.placement.tasks import tasks


@pytest.fixture
def start(tmp_path):
    """Starts a task: `start(function, *arguments)`; those left at the end are killed."""
    with tasks(tmp_path) as starter:
        yield starter


@pytest.fixture
def addresses():
    """Three addresses on loopback that are free."""
    return free_addresses(3)
