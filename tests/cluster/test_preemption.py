"""A signal to any one task stops all of them at the same step, from which they go on later."""

import os
import signal
import sys
import uuid

import pytest

from tests import harness
from tests.cluster import resumed_runs
from tests.cluster.conftest import Cluster, marked

pytestmark = pytest.mark.slow  # clusters take their time


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, dict]:
    """By kind, what a run leaves that was never stopped."""
    folder, left = tmp_path_factory.mktemp("straight"), {}
    for kind in ("source", "dataset"):
        chief, worker = harness.call_workers(
            resumed_runs.run, folder / kind, kind, str(folder / "run" / kind), timeout=120
        )
        assert chief["model"] == worker["model"]
        left[kind] = chief
    return left


def check_stops_and_goes_on(cluster: Cluster, kind: str, model_dir: str, straight: dict) -> int:
    """Checks what tasks leave of which one was sent a signal; returns their step."""
    chief, worker = cluster.results(60)
    assert chief == worker
    assert chief["preempted"] == "SIGTERM"
    step = chief["step"]
    chief, worker = cluster.start(resumed_runs.run, kind, model_dir).results(60)
    assert chief["step"] == worker["step"] == straight["step"]
    assert chief["saved"] == straight["saved"]  # every bit
    assert chief["model"] == worker["model"] == straight["model"]
    return step


@pytest.mark.parametrize(("index", "kind"), [(0, "source"), (1, "dataset")])
def test_a_signal_to_one_task_stops_all_at_one_step(index, kind, cluster, tmp_path, straight):
    model_dir = str(tmp_path / "run")
    cluster.start(resumed_runs.run, kind, model_dir, "auto", None, None, 0.2)
    cluster.wait_for(f"{resumed_runs.STEPS} 20", index)
    cluster.tasks[index].send(signal.SIGTERM)

    assert 20 <= check_stops_and_goes_on(cluster, kind, model_dir, straight[kind]) < 60


@pytest.mark.parametrize("index", [0, 1])
def test_a_signal_before_the_first_step_stops_all_too(index, cluster, tmp_path, straight):
    model_dir = str(tmp_path / "run")
    cluster.start(resumed_runs.run, "source", model_dir, "auto", None, None, 0.0, 1.0)
    cluster.wait_for("builds the model", index)
    cluster.tasks[index].send(signal.SIGTERM)

    # The batches of a call that have been read are trained on.
    assert check_stops_and_goes_on(cluster, "source", model_dir, straight["source"]) <= 7


TRAIN = ["-m", "tfbig", "train", "--config=tests/cluster/lost_runs.py"]


@pytest.mark.parametrize("index", [0, 1])
def test_all_commands_end_with_143(index, cluster, tmp_path):
    cluster.start(None, words=[*TRAIN, f"--model_dir={tmp_path / 'run'}"])
    cluster.wait_for("reads a batch", 1 - index)
    cluster.tasks[index].send(signal.SIGTERM)

    assert cluster.ends(40) == [143, 143], cluster
    [step] = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    told = [line for line in cluster.tasks[0].out.splitlines() if line.startswith("stopped by")]
    number = int(step.removeprefix("ckpt-"))
    assert told == [f"stopped by SIGTERM at step {number}; its state is in {tmp_path / 'run'}"]
    assert "stopped by" not in cluster.tasks[1].out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_is_all_tasks(number, cluster, tmp_path):
    mark = uuid.uuid4().hex
    command = [sys.executable, *TRAIN, f"--model_dir={tmp_path / 'run'}"]
    words = ["-m", "tfbig", "launch", "--workers=2", "--", *command]
    launcher = cluster.add(0, None, words, TFBIG_TEST_MARK=mark, TF_CONFIG="")
    cluster.wait_for("[worker 1] reads a batch", 0)
    assert len(marked(mark)) >= 4  # the launcher, its watchdog and two tasks
    os.kill(launcher.pid, number)

    assert cluster.ends(40) == [128 + number], cluster
    assert f"[worker 0] stopped by {number.name} at step" in launcher.out
    assert marked(mark) == []
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
