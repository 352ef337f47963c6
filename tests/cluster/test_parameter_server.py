"""Training with parameter servers: what is trained, how often, on what, and where it was read.

These tests guard disconnect_from_cluster and wait_for_closures of tfbig._private_api.
"""

import collections

import pytest

from tests import harness
from tests.cluster import parameter_server_runs as runs
from tfbig.data.order.distribution import RandomDistribution, RoundRobinBlockDistribution

pytestmark = pytest.mark.slow  # processes take their time

STEPS = 200


@pytest.mark.parametrize(
    ("workers", "order"), [(1, "random"), (2, "random"), (3, "random"), (2, "block")]
)
def test_every_counter_is_exact_and_every_step_is_read_once_by_a_worker(workers, order, tmp_path):
    found = harness.call_parameter_server(
        runs.train,
        tmp_path,
        None,
        STEPS,
        {"log_step_count_steps": 50, "data_distribution": order},
        workers=workers,
        timeout=120,
    )
    chief = found["chief"]

    assert chief["step"] == chief["iterations"] == STEPS
    assert [entry["step"] for entry in chief["history"] if "loss" in entry] == [50, 100, 150, 200]
    assert chief["metrics"]["accuracy"] >= 0.95
    for name, value in chief["here"].items():  # the model that the chief took home
        assert chief["metrics"][name] == pytest.approx(value, abs=1e-5)
    readers = [task for name, task in found.items() if name.startswith("worker")]
    read = collections.Counter(number for task in readers for number in task["read"])
    distribution = RandomDistribution(1440, 64, 1)
    if order == "block":
        distribution = RoundRobinBlockDistribution(1440, 64, 1, blocks=workers)
    expected = distribution.batches(0, STEPS).numbers
    assert read == collections.Counter(map(int, expected))
    assert all(task["read"] for task in readers)
    assert len({task["pid"] for task in found.values()}) == 2 + workers
    assert len(chief["read"]) <= 64  # it has looked at the first batch
    assert found["ps 0"]["read"] == []
    for task in (*readers, found["ps 0"]):  # all tasks hear of the result
        assert task["step"] == STEPS
        assert task["metrics"] == chief["metrics"]
        assert not task["has_model"]


def test_a_gradient_that_is_too_old_is_dropped_and_counted(tmp_path):
    found = harness.call_parameter_server(
        runs.train_stale, tmp_path, [None, 1], workers=3, timeout=150
    )
    free, bounded = found["chief"]  # two runs of one script

    assert free["step"] == free["iterations"] == bounded["step"] == 120
    points = [at for at in free["history"] if "loss" in at]
    assert max(at["staleness_max"] for at in points) > 1
    assert all(0 < at["staleness"] <= at["staleness_max"] for at in points)
    assert all(at["gradients_dropped"] == 0 for at in points)
    dropped = sum(at.get("gradients_dropped", 0) for at in bounded["history"])
    assert dropped > 0
    assert bounded["iterations"] == 120 - dropped


def test_a_dataset_of_unknown_length_is_read_to_its_end_in_each_epoch(tmp_path):
    found = harness.call_parameter_server(
        runs.train_on_dataset, tmp_path, str(tmp_path / "run"), None, 3, timeout=120
    )
    chief = found["chief"]

    assert chief["step"] == 3 * 23  # 1440 examples
    assert chief["metrics"]["accuracy"] == pytest.approx(chief["here"], abs=1e-6)


def test_a_dataset_that_is_shorter_than_max_steps_ends_with_a_line(tmp_path):
    found = harness.call_parameter_server(
        runs.train_on_dataset, tmp_path, str(tmp_path / "run"), 500, None, timeout=120
    )

    assert found["chief"]["step"] == 23
    line = "the data ended after step 23; max_steps=500 was not reached"
    assert any(told.startswith(line) for told in found["chief"]["lines"])
