"""Random tasks of a cluster with ps are killed or stopped at random times: the run ends well."""

import pytest

from tests.cluster import chaos
from tests.cluster.conftest import marked

STEPS = 1500


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_with_three_random_faults_ends_at_its_last_step(seed, tmp_path):
    found = chaos.run(tmp_path, seed, STEPS, events=3, timeout=280)

    assert found["code"] == 0, (found["events"], found["out"][-5000:])
    ((step, accuracy),) = found["finished"]
    assert step == STEPS
    assert accuracy >= 0.96
    assert not found["went_back"]
    assert marked(tmp_path.name) == []  # no process is left
