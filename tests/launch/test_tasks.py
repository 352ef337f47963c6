"""The ports and the environment variables of tasks."""

import json
import os
import socket

import pytest

from tfbig.clusters.find import find_cluster
from tfbig.errors import UserError
from tfbig.launch import ports
from tfbig.launch.ports import free_ports
from tfbig.launch.tasks import cluster_tasks, environments

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ((1, 0, False), ["worker 0"]),
        ((2, 0, True), ["worker 0", "worker 1", "evaluator"]),
        ((2, 1, True), ["chief", "worker 0", "worker 1", "ps 0", "evaluator"]),
    ],
)
def test_the_chief_is_the_first_task(counts, names):
    tasks = cluster_tasks(*counts)
    assert [task.name for task in tasks] == names
    assert [task.is_chief for task in tasks] == [True] + [False] * (len(names) - 1)


def variables(counts=(2, 0, False), attempt=0, threads=None, environ=None):
    tasks = cluster_tasks(*counts)
    count = sum(task.type != "evaluator" for task in tasks)
    return environments(tasks, range(11, 11 + count), attempt, threads, environ or {})


def test_workers_find_themselves_in_the_cluster():
    first, second, evaluator = (find_cluster(v) for v in variables((2, 0, True)))
    jobs = {"worker": ("127.0.0.1:11", "127.0.0.1:12")}
    assert [first.jobs, second.jobs, evaluator.jobs] == [jobs] * 3
    assert (first.task, second.task, evaluator.task) == ("worker 0", "worker 1", "evaluator")
    assert first.is_chief
    assert not second.is_chief


def test_a_cluster_with_a_ps_has_a_separate_chief():
    found = [find_cluster(v) for v in variables((2, 1, False))]
    jobs = {
        "chief": ("127.0.0.1:11",),
        "worker": ("127.0.0.1:12", "127.0.0.1:13"),
        "ps": ("127.0.0.1:14",),
    }
    assert [cluster.jobs for cluster in found] == [jobs] * 4
    assert [cluster.task for cluster in found] == ["chief", "worker 0", "worker 1", "ps 0"]


def test_a_single_worker_is_not_a_cluster():
    (only,) = variables((1, 0, False))
    assert find_cluster(only) is None
    assert json.loads(only["TF_CONFIG"])["task"] == {"type": "worker", "index": 0}


def test_tasks_inherit_the_variables_of_the_launcher():
    given = {"PATH": "/bin", "TF_CONFIG": "of another program"}
    for found in variables(attempt=2, environ=given):
        assert (found["PATH"], found["PYTHONUNBUFFERED"], found["TFBIG_LAUNCH_ATTEMPT"]) == (
            "/bin",
            "1",
            "2",
        )
        assert "127.0.0.1:11" in found["TF_CONFIG"]


@pytest.mark.parametrize(
    ("counts", "cores", "threads", "environ", "expected"),
    [
        ((2, 0, True), 8, None, {}, ["4", "4", "4"]),
        ((2, 1, False), 8, None, {}, ["2", "2", "2"]),  # the chief counts, the ps does not
        ((4, 0, False), 2, None, {}, ["1", "1", "1"]),
        ((2, 0, False), 8, 3, {}, ["3", "3", "3"]),
        ((2, 0, False), 8, None, {"OMP_NUM_THREADS": "7"}, ["4", "4", "7"]),
        ((2, 0, False), 8, 3, {"OMP_NUM_THREADS": "7"}, ["3", "3", "3"]),
    ],
)
def test_tasks_that_train_share_the_cores(counts, cores, threads, environ, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    for found in variables(counts, threads=threads, environ=environ):
        assert [found[name] for name in THREADS] == expected


def test_ports_are_free_and_below_the_ephemeral_range():
    lowest = ports._first_ephemeral_port()
    found = free_ports(20, set())
    assert len(set(found)) == 20
    assert all(10000 <= port < lowest for port in found)


def test_there_are_ports_if_the_ephemeral_range_covers_nearly_all(monkeypatch):
    monkeypatch.setattr(ports, "_first_ephemeral_port", lambda: 1024)
    assert all(10000 <= port < 65536 for port in free_ports(5, set()))


def test_a_port_in_use_or_excluded_is_not_returned(monkeypatch):
    with socket.socket() as listener:
        base = next(
            p for p in range(20000, 30000, 10) if all(ports._is_free(p + i) for i in range(4))
        )
        listener.bind(("127.0.0.1", base + 1))
        listener.listen()
        monkeypatch.setattr(ports, "_LOWEST", base)
        monkeypatch.setattr(ports, "_first_ephemeral_port", lambda: base + 200)
        found = [free_ports(1, {base}) for _ in range(2000)]
        assert all(port not in (base, base + 1) for (port,) in found)
        monkeypatch.setattr(ports, "_is_free", lambda port: False)
        with pytest.raises(
            UserError, match=r"^this machine has no 2 free ports from \d+ to \d+\.$"
        ):
            free_ports(2, set())
