"""Workers that are killed again and again leave no trace in what is trained."""

import json
import pathlib
import random
import sys

import pytest

from tests import harness
from tests.cluster import resumed_runs
from tests.cluster.conftest import marked

pytestmark = pytest.mark.slow  # clusters take their time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUTS = {"pause": 0.1, "longest_pause": 0.1}


def launched(
    kind: str, folder: pathlib.Path, kills: list, timeout: float, **environment: str
) -> str:
    """Runs a launch in which workers are killed; returns what it printed."""
    command = [
        sys.executable,
        "-m",
        "tests.cluster.resumed_runs",
        kind,
        str(folder),
        json.dumps(kills),
    ]
    arguments = {"command": command, "workers": 2, "restarts": len(kills), "timeouts": TIMEOUTS}
    return harness.run_python(
        "-m", "tests.launch.launcher", json.dumps(arguments), timeout=timeout, TF_CONFIG="",
        TF_NUM_INTRAOP_THREADS="1",
        **environment,
    )  # fmt: skip


def check_no_trace(kind: str, tmp_path: pathlib.Path, kills: list, timeout: float) -> None:
    (tmp_path / "straight").mkdir()
    straight, _ = harness.call_workers(
        resumed_runs.run, tmp_path / "straight", kind, str(tmp_path / "run0"), timeout=120
    )
    out = launched(kind, tmp_path / "run1", kills, timeout)

    assert out.count("was killed by SIGKILL; restart") == len(kills), out
    for attempt, (worker, _, _) in enumerate(kills, start=1):
        assert f"worker {worker} was killed by SIGKILL; restart {attempt} of" in out, out
    for worker in (0, 1):
        assert f"[worker {worker}] finished at step 60" in out, out
    saved = harness.call(resumed_runs.saved, tmp_path, str(tmp_path / "run1"), timeout=120)
    assert len(saved) >= 8  # the optimizer's among them
    assert saved == straight["saved"]  # every bit


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", ["source", "dataset"])
def test_each_worker_is_killed_five_times_and_the_weights_are_the_same(kind, tmp_path):
    choose = random.Random(kind)
    kills = [
        [i % 2, choose.randint(1, 40), choose.choice([0.0, 0.005, 0.02, 0.05])] for i in range(10)
    ]
    check_no_trace(kind, tmp_path, kills, timeout=500)


@pytest.mark.parametrize("kind", ["source", "source:owner_full"])
def test_a_worker_is_killed_and_the_weights_are_the_same(kind, tmp_path):
    check_no_trace(kind, tmp_path, [[1, 23, 0.0]], timeout=100)


@pytest.mark.slow
@pytest.mark.long
def test_ten_launches_in_a_row_end_well_and_leave_nothing(tmp_path):
    for i in range(10):
        mark = f"{tmp_path.name} {i}"
        out = launched("source", tmp_path / str(i), [], timeout=120, TFBIG_TEST_MARK=mark)
        assert out.count("finished at step 60") == 2
        assert marked(mark) == []
