"""A stopped cross-validation leaves no process, and its folds resume."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.training.small_runs import checkpoint_steps

ROOT = pathlib.Path(__file__).parent.parent.parent


def alive(folder) -> list[int]:
    """Returns the ids of processes with an open file in the folder, such as the log of a fold."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
        except OSError:  # the process has ended
            continue
        if any(file.startswith(str(folder)) for file in files):
            found.append(int(process.name))
    return found


def wait_for(condition, seconds=60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the deadline has passed"
        time.sleep(0.1)


def count(folder, words) -> int:
    """Returns the number of fold logs that contain these words."""
    return sum(words in log.read_text() for log in folder.glob("fold_*/fold.log"))


@pytest.fixture
def start(tmp_path):
    processes = []

    def started() -> subprocess.Popen:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.evaluation.stopped_folds", str(tmp_path)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield started
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # the session is empty
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_no_process_is_left_and_the_folds_resume(start, tmp_path):
    """Sends SIGINT to every process, as Ctrl-C does; then kills only the parent."""
    first = start()
    wait_for(lambda: count(tmp_path, "training on one device (CPU:0) from step 0") == 2)
    assert len(alive(tmp_path)) == 2
    os.killpg(first.pid, signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert (first.returncode, out) == (0, "SIGINT after 0 folds\n")
    assert alive(tmp_path) == []
    reached = {n: checkpoint_steps(tmp_path / f"fold_{n}")[-1] for n in (1, 2)}
    assert not (tmp_path / "fold_3").exists()

    second = start()
    wait_for(lambda: count(tmp_path, "resuming from") == 2)
    for number, step in reached.items():
        log = (tmp_path / f"fold_{number}/fold.log").read_text()
        assert f"fold_{number}/checkpoints/ckpt-{step:08d}" in log
    os.kill(second.pid, signal.SIGKILL)
    wait_for(lambda: alive(tmp_path) == [])
