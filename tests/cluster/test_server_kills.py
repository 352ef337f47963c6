"""Tasks of a cluster with ps that are killed or stopped: the run ends where it should.

A launch costs half a minute, most of it for the start of its tasks. What a kill can break does not
depend on what was killed before it, so CI kills one kind of task after the other in a launch: those
that are replaced alone (the workers), and those after which all resume from the checkpoint (a ps,
the chief). A second launch does so while a large table is written. The long runs kill each task in
a launch of its own.

These tests guard stop_coordinator of tfbig._private_api.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import pytest

from tests import harness
from tests.cluster.conftest import marked
from tests.cluster.parameter_server_runs import data
from tfbig.training.evaluation.found_elsewhere import Evaluations

pytestmark = pytest.mark.slow  # clusters take their time

STEPS = 400


def launched(
    folder: pathlib.Path,
    kills: list,
    timeout: float = 150,
    steps: int = STEPS,
    evaluator: bool = False,
    model: tuple[str, ...] = (),
) -> str:
    """Runs a launch with 2 workers and 1 ps in which tasks are killed; returns what it printed."""
    program = [sys.executable, "-m", "tests.cluster.server_kill_runs"]
    arguments = {
        "command": [*program, str(folder), str(steps), json.dumps(kills), *model],
        "workers": 2,
        "ps": 1,
        "evaluator": evaluator,
        "restarts": 3,
        "timeouts": {"pause": 0.1, "longest_pause": 0.1},
    }
    mark = folder.name
    out = harness.run_python(
        "-m", "tests.launch.launcher", json.dumps(arguments),
        timeout=timeout, TF_CONFIG="", TFBIG_TEST_MARK=mark,
    )  # fmt: skip
    assert marked(mark) == []  # no process is left
    return out


def check_end(out: str, steps: int = STEPS) -> None:
    """The last start of all tasks ended at the last step, and well."""
    for task in ("chief", "worker 0", "worker 1", "ps 0"):
        found = re.findall(rf"\[{task}\] finished at step (\d+), accuracy ([\d.]+)", out)
        assert len(found) == 1, out
        assert int(found[0][0]) == steps, out
        assert float(found[0][1]) >= 0.95, out


def test_workers_a_ps_and_the_chief_are_killed_one_after_the_other(tmp_path):
    killed = ["workers", "ps 0", "chief"]
    out = launched(tmp_path, [[t, 80 * i, "SIGKILL"] for i, t in enumerate(killed, 1)], timeout=300)

    assert out.count("was killed by SIGKILL; it is restarted, the others continue") == 2, out
    told = [out.index(f"SIGKILL to {task}") for task in killed]
    assert told == sorted(told), out
    assert "restart 1 of" not in out[: told[1]], out
    assert "ps 0 was killed by SIGKILL; restart 1 of 3" in out, out
    assert "chief was killed by SIGKILL; restart 2 of 3" in out, out
    check_end(out)


@pytest.mark.long
def test_a_worker_is_killed_and_the_others_go_on_until_it_is_there_again(tmp_path):
    out = launched(tmp_path, [["worker 1", 120, "SIGKILL"]])

    assert "worker 1 was killed by SIGKILL; it is restarted, the others continue" in out, out
    assert "restart 1 of" not in out, out
    assert "resuming" not in out, out
    check_end(out)


@pytest.mark.long
@pytest.mark.parametrize("task", ["ps 0", "chief"])
def test_a_task_that_nobody_can_replace_is_killed_and_all_go_on_from_the_checkpoint(task, tmp_path):
    out = launched(tmp_path, [[task, 120, "SIGKILL"]])

    assert f"{task} was killed by SIGKILL; restart 1 of 3" in out, out
    check_end(out)


@pytest.mark.parametrize(
    "tasks",
    [
        ("worker 0", "ps 0", "chief"),
        *(pytest.param((task,), marks=pytest.mark.long) for task in ("worker 0", "ps 0", "chief")),
    ],
    ids="-".join,
)
def test_tasks_are_killed_while_a_table_is_written(tasks, tmp_path):
    kills = [[task, 20 + 100 * i, "SIGKILL"] for i, task in enumerate(tasks, 1)]
    out = launched(tmp_path, kills, model=("table",), timeout=150 + 75 * len(tasks))

    restarts = 0
    for task in tasks:
        assert re.search(rf"step \d+: SIGKILL to {task}", out), out
        if task.startswith("worker"):
            assert f"{task} was killed by SIGKILL; it is restarted, the others" in out, out
        else:
            restarts += 1
            told = f"restart {restarts} of 3"
            assert f"{task} was killed by SIGKILL; {told}" in out, out
            _, _, again = out.partition(told)
            assert int(re.search(r"\[chief\] step (\d+)/", again)[1]) > 50, out  # a checkpoint's
    check_end(out)
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert f"ckpt-{STEPS:08d}" in names
    assert not any(name.startswith(".") for name in names)


@pytest.mark.long
def test_all_workers_are_killed_at_once(tmp_path):
    out = launched(tmp_path, [["workers", 120, "SIGKILL"]])

    assert out.count("was killed by SIGKILL; it is restarted") == 2, out
    check_end(out)


@pytest.mark.long
@pytest.mark.parametrize("task", ["worker 0", "ps 0", "chief"])
def test_a_task_is_stopped_for_half_a_minute_and_wakes_up_again(task, tmp_path):
    out = launched(tmp_path, [[task, 120, "SIGSTOP", 30]])

    assert f"SIGSTOP to {task}" in out, out
    check_end(out)


def test_an_evaluator_follows_the_checkpoints_keeps_the_best_and_may_be_killed(tmp_path):
    out = launched(tmp_path, [["evaluator", 120, "SIGKILL"]], evaluator=True)

    assert "evaluator was killed by SIGKILL; it is restarted, the others continue" in out, out
    check_end(out)
    assert f"[evaluator] finished at step {STEPS}" in out, out
    evaluations = Evaluations(str(tmp_path / "run")).read()
    steps = [step for step, _ in evaluations]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert all(step % 50 == 0 for step in steps)  # where checkpoints were saved
    best = json.loads((tmp_path / "run" / "best" / "best.json").read_text())
    step, metrics = min(evaluations, key=lambda found: found[1]["loss"])
    assert best == {"step": step, "metrics": metrics}
    model = keras.models.load_model(tmp_path / "run" / "best" / "model.keras")
    loss, accuracy = model.evaluate(*data()[1], verbose=0)
    assert [loss, accuracy] == pytest.approx([metrics["loss"], metrics["accuracy"]], abs=1e-5)


def test_sigterm_to_the_launcher_saves_what_is_on_the_ps_and_a_new_launch_goes_on(tmp_path):
    def start(steps: int) -> subprocess.Popen:
        words = ["-m", "tfbig", "launch", "--workers=2", "--ps=1", "--restarts=0", "--"]
        task = [sys.executable, "-m", "tests.cluster.chaos", str(tmp_path), str(steps)]
        return subprocess.Popen(
            [sys.executable, *words, *task],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TFBIG_TEST_MARK": tmp_path.name, "PYTHONPATH": os.getcwd()},
        )

    launcher = start(10**6)
    checkpoints, until = tmp_path / "run" / "checkpoints", time.monotonic() + 90
    while not list(checkpoints.glob("ckpt-*")) and time.monotonic() < until:
        time.sleep(0.1)
    launcher.send_signal(signal.SIGTERM)
    out, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, out  # the chief's: its script goes on to its own end
    (stopped,) = map(int, re.findall(r"\[chief\] finished at step (\d+)", out))
    assert max(int(p.name.rpartition("-")[2]) for p in checkpoints.glob("ckpt-*")) == stopped
    assert marked(tmp_path.name) == []

    launcher = start(stopped + 50)
    out, _ = launcher.communicate(timeout=90)
    assert f"[chief] finished at step {stopped + 50}, " in out, out
    assert "WENT BACK" not in out, out
    assert launcher.returncode == 0
