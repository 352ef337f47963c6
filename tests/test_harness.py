"""The harness that the tests with processes of their own rely on."""

import os
import time

import pytest

from tests import harness


def add(a: int, b: int) -> dict:
    return {"sum": a + b, "process": os.getpid()}


def fail() -> None:
    print("before the error")
    raise ValueError("this went wrong")


def test_a_function_runs_in_a_process_of_its_own_and_returns_its_result(in_process):
    result = in_process(add, 2, 3, timeout=60)

    assert result["sum"] == 5
    assert result["process"] != os.getpid()


def test_an_error_in_the_process_is_an_error_here_with_what_was_printed(in_process):
    with pytest.raises(harness.ProcessFailed, match="(?s)before the error.*this went wrong"):
        in_process(fail, timeout=60)


def test_a_process_is_killed_at_its_deadline_and_its_children_with_it(tmp_path):
    program = (
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )

    with pytest.raises(harness.ProcessFailed, match="(?s)killed after 5 s.*started"):
        harness.run_python("-c", program, timeout=5)

    assert_gone(int((tmp_path / "child").read_text()))


def assert_gone(pid: int) -> None:
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")")[1].split()[0] == "Z":
                    return  # dead, and not yet collected by its parent
        except FileNotFoundError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} is alive")
