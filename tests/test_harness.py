"""The harness that the tests with processes of their own rely on."""

import json
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


def place(fails: int | None = None, waits: bool = False) -> list:
    task = json.loads(os.environ["TF_CONFIG"])
    index = task["task"]["index"]
    if index == fails:
        fail()
    if waits or fails is not None:
        print("waiting", flush=True)
        time.sleep(600)
    return [index, task["cluster"]["worker"], os.getpid()]


def test_workers_are_processes_that_know_each_others_addresses(tmp_path):
    first, second, third = harness.call_workers(place, tmp_path, workers=3, timeout=60)

    assert [first[0], second[0], third[0]] == [0, 1, 2]
    assert first[1] == second[1] == third[1]
    assert len(set(first[1])) == 3
    assert len({first[2], second[2], third[2], os.getpid()}) == 4


def test_workers_are_killed_if_one_fails_and_all_that_was_printed_is_told(tmp_path):
    with pytest.raises(harness.ProcessFailed) as failure:
        harness.call_workers(place, tmp_path, 1, timeout=60)

    text = str(failure.value)
    assert "worker 0: killed" in text
    assert "waiting" in text
    assert "worker 1: exit code 1" in text
    assert "this went wrong" in text
    for index in (0, 1):
        for _ in range(100):
            if (tmp_path / f"worker{index}" / "exit").exists():
                break
            time.sleep(0.1)
    assert (tmp_path / "worker0" / "exit").read_text() == "-9"


def test_workers_are_killed_at_their_deadline(tmp_path):
    with pytest.raises(harness.ProcessFailed, match="(?s)worker 0: killed.*worker 1: killed"):
        harness.call_workers(place, tmp_path, None, True, timeout=3)


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
