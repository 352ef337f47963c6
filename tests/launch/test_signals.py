"""Signals to the launcher are the tasks' too, and no process is left whatever happens to it."""

import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import IO

import pytest

from tests.launch.conftest import QUICK
from tfbig.launch.interrupts import Interrupts

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAVES = """
    def save(number, frame):
        print("saved", flush=True)
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
"""
CHILD = 'child = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])\n'
READY = 'note(f"{os.getpid()} {child.pid}")\n'
WAITS = "while True: signal.pause()\n"


@pytest.fixture
def start(program):
    """Starts a launcher; it is killed at the end of the test if it still runs."""
    started = []

    def start(*parts: str, **arguments) -> subprocess.Popen:
        body = "".join(part if part.startswith("\n") else "\n    " + part for part in parts)
        arguments = {"command": program.write(body), "timeouts": QUICK} | arguments
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launch.launcher", json.dumps(arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def pids(program):
    """The processes of all tasks, once all have noted them."""

    def pids(*names: str) -> list[int]:
        return [int(pid) for name in names for pid in program.noted(name).split()]

    return pids


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_is_forwarded_and_all_tasks_save(start, pids, gone, number, code):
    launcher = start(SAVES, CHILD, READY, WAITS)
    running = pids("worker 0", "worker 1")
    launcher.send_signal(number)
    out, err = launcher.communicate(timeout=30)
    assert launcher.returncode == code
    assert sorted(out.splitlines()) == ["[worker 0] saved", "[worker 1] saved"]
    name = signal.Signals(number).name
    assert err == (
        f"tfbig launch: {name} is forwarded to all tasks, which have 120 s to save; a second "
        "signal kills them\n"
    )
    gone(*running)


def test_the_launcher_waits_for_a_task_that_saves_slowly(start, pids):
    launcher = start(
        """
    def save(number, frame):
        time.sleep(2)  # longer than all waits of these tests
        print("saved", flush=True)
        sys.exit(143)
    if name == "worker 0": signal.signal(signal.SIGTERM, save)
    """,
        CHILD,
        READY,
        WAITS,
    )
    pids("worker 0", "worker 1")
    launcher.terminate()
    out, err = launcher.communicate(timeout=30)
    assert (launcher.returncode, out) == (143, "[worker 0] saved\n")
    assert len(err.splitlines()) == 1


def test_child_processes_of_a_stopped_task_have_time_to_save(start, program, pids, gone):
    # As a shell script that runs the program: SIGTERM ends the shell at once.
    launcher = start(
        """
    if os.fork():
        while True: signal.pause()
    signal.signal(signal.SIGTERM, lambda *_: (note("saved"), os._exit(0)))
    note(f"{os.getppid()} {os.getpid()}", "pids")
    while True: signal.pause()
    """,
        workers=1,
        timeouts=QUICK | {"save": 20},
    )
    running = pids("pids")
    launcher.terminate()
    launcher.communicate(timeout=30)
    assert (launcher.returncode, program.noted("worker 0")) == (143, "saved")
    gone(*running)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills(start, pids, gone, second):
    launcher = start(
        'signal.signal(signal.SIGTERM, lambda *_: print("busy", flush=True))\n', CHILD, READY, WAITS
    )
    running = pids("worker 0", "worker 1")
    launcher.terminate()
    assert {launcher.stdout.readline(), launcher.stdout.readline()} == {
        "[worker 0] busy\n",
        "[worker 1] busy\n",
    }
    if second == signal.SIGTERM:
        time.sleep(0.7)  # otherwise it counts as a duplicate of the first
    launcher.send_signal(second)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 137
    gone(*running)


def test_tasks_that_ignore_a_signal_are_killed(start, pids, gone):
    launcher = start(
        'signal.signal(signal.SIGTERM, lambda *_: print("busy", flush=True))\n',
        *(CHILD, READY, WAITS),
        timeouts=QUICK | {"signal": 1.0},
    )
    running = pids("worker 0", "worker 1")
    launcher.terminate()
    launcher.communicate(timeout=30)
    assert launcher.returncode == 137
    gone(*running)


def test_a_duplicate_signal_counts_once(start, pids):
    launcher = start(
        """
    def save(number, frame):
        time.sleep(1)
        print("saved", flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    """,
        CHILD,
        READY,
        WAITS,
    )
    pids("worker 0", "worker 1")
    launcher.terminate()
    assert launcher.stderr.readline().startswith("tfbig launch: SIGTERM is forwarded to all tasks")
    launcher.terminate()
    out, err = launcher.communicate(timeout=30)
    assert (launcher.returncode, err) == (143, "")
    assert sorted(out.splitlines()) == ["[worker 0] saved", "[worker 1] saved"]


def test_a_signal_between_two_starts_ends_the_launcher(start):
    launcher = start("sys.exit(1)", workers=1, timeouts=QUICK | {"pause": 60, "longest_pause": 60})
    assert launcher.stderr.readline() == (
        "tfbig launch: worker 0 ended with exit code 1; restart 1 of 3\n"
    )
    launcher.terminate()
    out, err = launcher.communicate(timeout=30)
    assert (launcher.returncode, out) == (143, "")
    assert err == "tfbig launch: stopped by SIGTERM before the restart\n"


def test_a_killed_launcher_leaves_no_process(start, program, pids, gone):
    launcher = start(
        """
    def save(number, frame):
        note("", f"saved {name}")
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    """,
        CHILD,
        READY,
        WAITS,
    )
    running = pids("worker 0", "worker 1")
    children = _children(launcher.pid)
    assert len(children) == 3  # the tasks and the watchdog
    launcher.kill()
    launcher.wait(timeout=30)
    gone(*running, *children, timeout=20)
    assert program.noted("saved worker 0") == program.noted("saved worker 1") == ""


def test_a_launcher_that_is_killed_with_its_group_leaves_no_process(start, pids, gone):
    launcher = start(CHILD, READY, WAITS, workers=1)
    running, children = pids("worker 0"), _children(launcher.pid)
    for pid in (launcher.pid, running[0]):  # the watchdog stops the child of the task
        subprocess.run(["kill", "-KILL", str(pid)], check=True, timeout=10)
    gone(*running, *children, timeout=20)


def test_a_closed_output_stops_the_tasks(start, pids, gone):
    launcher = start(
        """
    signal.signal(signal.SIGTERM, lambda *_: (note("saved"), sys.exit(143)))
    """,
        CHILD,
        """
    note(f"{os.getpid()} {child.pid}", "pids")
    while True: print("a line", flush=True); time.sleep(0.01)
    """,
        workers=1,
    )
    running = pids("pids")
    launcher.stdout.readline()
    launcher.stdout.close()
    err = launcher.stderr.read()
    assert launcher.wait(timeout=30) == 1
    assert err.splitlines()[-1] == "BrokenPipeError: [Errno 32] Broken pipe"
    gone(*running)


def test_a_signal_reaches_the_tasks_while_the_output_pipe_is_full(start, program, pids):
    launcher = start(
        """
    signal.signal(signal.SIGTERM, lambda *_: (note("terminated"), os._exit(143)))
    """,
        CHILD,
        """
    note(f"{os.getpid()} {child.pid}", "pids")
    while True: os.write(1, b"x" * 10000 + b"\\n")
    """,
        workers=1,
    )
    pids("pids")
    _wait_until_full(launcher.stdout)
    launcher.terminate()  # nobody reads its output, so it is blocked in a write
    assert program.noted("worker 0") == "terminated"
    launcher.communicate(timeout=30)
    assert launcher.returncode == 143


def test_the_killed_task_is_named_and_not_those_that_failed_as_a_consequence(
    start, program, pids, gone
):
    # Both have ended when the launcher polls them.
    launcher = start(
        """
    note(os.getpid())
    wait_for("go")
    if name == "worker 1": os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)
    """,
        restarts=0,
    )
    running = pids("worker 0", "worker 1")
    launcher.send_signal(signal.SIGSTOP)
    (program.folder / "go").write_text("")
    gone(*running, timeout=30)
    launcher.send_signal(signal.SIGCONT)
    _, err = launcher.communicate(timeout=30)
    assert (launcher.returncode, err) == (1, "tfbig launch: worker 1 was killed by SIGKILL\n")


def _wait_until_full(pipe: IO) -> None:
    """Timeouts until a pipe holds what it can: until no more comes."""
    before, now = -1, 0
    while now < 4096 or now != before:
        time.sleep(0.3)
        before, now = now, struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def _children(pid: int) -> list[int]:
    return [
        int(path.name)
        for path in pathlib.Path("/proc").iterdir()
        if path.name.isdigit() and _parent(path) == pid
    ]


def _parent(path: pathlib.Path) -> int | None:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_the_listener_is_called_while_the_launcher_is_blocked():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        calls = []
        interrupts.listener = lambda: calls.append(list(interrupts.received))
        reader, writer = os.pipe()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        threading.Timer(0.3, lambda: os.write(writer, str(len(calls)).encode())).start()
        assert os.read(reader, 1) == b"1"  # called during the blocking read
        os.close(reader)
        os.close(writer)
    assert calls == [[signal.SIGTERM]]
    assert signal.getsignal(signal.SIGTERM) is before
