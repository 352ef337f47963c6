"""The harness that the tests with processes of their own rely on."""

import itertools
import json
import os
import time

import pytest

from tests import harness, nursery
from tfbig.launch import ports


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_are_killed_at_their_deadline(tmp_path):
    with pytest.raises(harness.ProcessFailed, match="(?s)worker 0: killed.*worker 1: killed"):
        harness.call_workers(place, tmp_path, None, True, timeout=3)


@pytest.mark.slow
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


def test_a_forked_script_is_run_as_python_runs_it(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("word = 'found'\n")
    (tmp_path / "script.py").write_text(
        "import os, sys, beside\n"
        "print(__name__, sys.argv[1:], beside.word)\n"
        "print(os.environ.get('SET'), os.environ.get('HOME'))\n"
        "print(os.getcwd(), 'tensorflow' in sys.modules)\n"
        "print('an error', file=sys.stderr)\n"
        "sys.exit(len(sys.argv) - 2)\n"
    )
    nursery._nursery()  # has been started with a HOME
    monkeypatch.setenv("SET", "1")
    monkeypatch.delenv("HOME")
    done = harness.run_forked(str(tmp_path / "script.py"), "a", folder=tmp_path)
    assert done.out.splitlines() == ["__main__ ['a'] found", "1 None", f"{tmp_path} True"]
    assert done.err == "an error\n"
    with pytest.raises(harness.ProcessFailed, match="(?s)exit code 1; .*an error"):
        harness.run_forked(str(tmp_path / "script.py"), "a", "b", folder=tmp_path)
    with pytest.raises(harness.ProcessFailed, match="(?s)killed after 1 s; .*started"):
        harness.run_forked(
            "-c", "import time; print('started'); time.sleep(60)", folder=tmp_path, timeout=1
        )


def test_workers_of_xdist_find_their_ports_in_ranges_of_their_own(monkeypatch):
    lowest, given = ports._LOWEST, ports._first_ephemeral_port
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    ranges = []
    for number in range(3):
        monkeypatch.setattr(ports, "_LOWEST", lowest)
        monkeypatch.setattr(ports, "_first_ephemeral_port", given)
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        harness.keep_to_own_ports()
        found = ports.free_ports(20, set())
        ranges.append((min(found), max(found)))
    assert ranges == sorted(ranges)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_a_cluster_waits_for_that_of_another_worker(tmp_path):
    code = (
        "from tests import harness\n"
        "with harness.cores_for_a_cluster():\n"
        "    print('has them', flush=True)\n"
    )
    words = ["-c", f"import sys; sys.path.insert(0, {os.getcwd()!r})\n{code}"]
    with harness.cores_for_a_cluster():
        with harness.cores_for_a_cluster():  # the same worker's
            pass
        other = nursery.python(words, tmp_path / "other", tmp_path)
        assert not other.ended(1)
        assert other.out == ""
    assert other.ended(30)
    assert other.out == "has them\n"


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
