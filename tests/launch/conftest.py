"""Runs small Python programs as the tasks of a cluster."""

import io
import os
import pathlib
import signal
import sys
import textwrap
import time

import pytest

from tfbig.launch.local import launch
from tfbig.launch.supervisor import Timeouts

QUICK = {
    "after_failure": 0.5,
    "helpers": 0.3,
    "workers": 0.8,
    "save": 1.0,
    "pause": 0.05,
    "longest_pause": 0.1,
}

_BEGINNING = """
import json, os, pathlib, signal, subprocess, sys, time

task = json.loads(os.environ["TF_CONFIG"])["task"]
name = task["type"] + " " + str(task["index"])
attempt = int(os.environ["TFBIG_LAUNCH_ATTEMPT"])
folder = pathlib.Path({folder!r})

def note(word, name=name):
    new = folder / ("new " + name)
    new.write_text(str(word))
    new.rename(folder / name)

def wait_for(other):
    while not (folder / other).exists():
        time.sleep(0.01)

def wait_for_end(other):  # until the launcher knows of it
    wait_for(other)
    process = pathlib.Path("/proc", (folder / other).read_text())
    while process.exists():
        time.sleep(0.01)

"""


class LaunchResult:
    """The exit code of a launch, and the lines on both streams."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out.splitlines(), err.splitlines()

    def printed_by(self, name: str) -> list[str]:
        """The lines of one task on standard output."""
        return [line.removeprefix(f"[{name}] ") for line in self.out if line.startswith(f"[{name}")]

    def __repr__(self) -> str:
        return "\n".join([f"exit {self.code}", *self.out, "stderr:", *self.err])


class Program:
    """Writes a program that all tasks run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def write(self, body: str) -> list[str]:
        """Writes the program and returns its command.

        The program may use `name` and `attempt`. `note(word)` writes a file with the name of the
        task, `wait_for(name)` waits for the file of another task, and `wait_for_end(name)` waits
        for the end of a task that has noted its process id.
        """
        path = self.folder / "task.py"
        path.write_text(_BEGINNING.format(folder=str(self.folder)) + textwrap.dedent(body))
        return [sys.executable, "-S", str(path)]

    def __call__(self, body: str, timeouts: dict | None = None, **arguments) -> LaunchResult:
        out, err = io.StringIO(), io.StringIO()
        timeouts = Timeouts(**(QUICK | (timeouts or {})))
        code = launch(self.write(body), out=out, err=err, timeouts=timeouts, **arguments)
        return LaunchResult(code, out.getvalue(), err.getvalue())

    def noted(self, name: str, timeout: float = 30) -> str:
        """Waits for the note of a task and returns it."""
        path, deadline = self.folder / name, time.monotonic() + timeout
        while not path.exists():
            assert time.monotonic() < deadline, f"{name} has noted nothing"
            time.sleep(0.01)
        return path.read_text()


@pytest.fixture
def program(tmp_path) -> Program:
    return Program(tmp_path)


@pytest.fixture(autouse=True)
def deadline():
    """Fails a test after one minute."""

    def late(number, frame):
        raise TimeoutError("the deadline of a test")

    saved = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, saved)


def is_alive(pid: int) -> bool:
    """Returns whether a process is running; a zombie is not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def gone():
    """Asserts that processes end within a time."""

    def check(*pids: int, timeout: float = 0) -> None:
        limit = time.monotonic() + timeout
        while any(map(is_alive, pids)) and time.monotonic() < limit:
            time.sleep(0.02)
        alive = [pid for pid in pids if is_alive(pid)]
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        assert alive == []

    return check
