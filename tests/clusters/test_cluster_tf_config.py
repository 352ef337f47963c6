"""TF_CONFIG is parsed to a cluster, or rejected with an error that names the mistake."""

import json
import subprocess
import sys

import pytest

from tfbig.clusters.find import Cluster, find_cluster
from tfbig.errors import UserError

TWO = {"worker": ["a:1", "b:2"]}
WORKER_0 = {"type": "worker", "index": 0}


def find(cluster=None, task=None, **more) -> Cluster | None:
    config = {"cluster": cluster, "task": task, **more}
    config = {key: value for key, value in config.items() if value is not None}
    return find_cluster({"TF_CONFIG": json.dumps(config)})


@pytest.mark.parametrize(
    ("jobs", "task", "expected"),
    [
        (TWO, ("worker", 1), {"worker": ("a:1", "b:2")}),
        (TWO, ("worker", "1"), {"worker": ("a:1", "b:2")}),
        (TWO, ("evaluator", 0), {"worker": ("a:1", "b:2")}),
        (
            {"ps": ["p:1"], "worker": ["a:1"], "master": ["m:1"]},
            ("master", 0),
            {"chief": ("m:1",), "worker": ("a:1",), "ps": ("p:1",)},
        ),
        ({"chief": ["c:1"], "worker": ["a:1"], "ps": []}, ("chief", 0), None),
        ({"worker": ["[::1]:2222", "10.0.0.1:65535"]}, ("worker", 0), None),
        ({"chief": ["c:1"]}, ("evaluator", 0), {"chief": ("c:1",)}),
    ],
)
def test_a_cluster_is_parsed(jobs, task, expected):
    found = find(jobs, {"type": task[0], "index": task[1]}, environment="cloud")
    expected = expected or {job: tuple(addresses) for job, addresses in jobs.items() if addresses}
    assert found == Cluster("TF_CONFIG", expected, task[0].replace("master", "chief"), int(task[1]))
    assert list(found.jobs) == [job for job in ("chief", "worker", "ps") if job in found.jobs]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{}",
        '{"cluster": {}}',
        '{"cluster": null, "task": {"type": "worker", "index": 0}}',
        '{"task": {"type": "worker", "index": 0}}',
        '{"task": {"type": "master", "index": "0"}, "environment": "cloud"}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"chief": ["a:1"], "worker": []}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_single_task_is_not_a_cluster(text):
    assert find_cluster({"TF_CONFIG": text}) is None


EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)

BAD_TEXT = {
    "cut off": (
        '{"cluster": {"worker": ["a:1"',
        "TF_CONFIG is not JSON: Expecting ',' delimiter at line 1, column 30 of "
        f'\'{{"cluster": {{"worker": ["a:1"\'. It has to look like {EXAMPLE}.',
    ),
    "Python": (
        "{'cluster': {'worker': ['host0.example.com:2222', 'host1.example.com:2222']}}",
        "TF_CONFIG is not JSON: Expecting property name enclosed in double quotes at line 1, "
        "column 2 of \"{'cluster': {'worker': ['host0.example.com:2222', 'host1.ex…\". It has to "
        f"look like {EXAMPLE}.",
    ),
    "a list": ("[1]", f"TF_CONFIG is '[1]'; it has to look like {EXAMPLE}."),
    "misspelt": (
        '{"clutser": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
        f"TF_CONFIG has no \"cluster\", but 'clutser'; it has to look like {EXAMPLE}.",
    ),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_a_text_that_is_not_a_cluster_is_rejected(case):
    text, message = BAD_TEXT[case]
    with pytest.raises(UserError) as raised:
        find_cluster({"TF_CONFIG": text})
    assert str(raised.value) == message


NO_TASK = (
    "so this process does not know which task it is; add "
    '"task": {"type": "worker", "index": 0}, with its own type and index.'
)
BAD = {
    "no task": (TWO, None, f'TF_CONFIG has no "task", {NO_TASK}'),
    "no type": (TWO, {"index": 0}, f'TF_CONFIG has "task": {{"index": 0}}, {NO_TASK}'),
    "no index": (TWO, {"type": "worker"}, f'TF_CONFIG has "task": {{"type": "worker"}}, {NO_TASK}'),
    "an unknown type": (
        TWO,
        {"type": "wroker", "index": 0},
        "TF_CONFIG: the task type is 'wroker'; expected one of chief, worker, ps, evaluator.",
    ),
    "a type that is a list": (
        TWO,
        {"type": ["worker"], "index": 0},
        'TF_CONFIG: the task type is ["worker"]; expected one of chief, worker, ps, evaluator.',
    ),
    "an index past the end": (
        TWO,
        {"type": "worker", "index": 2},
        "TF_CONFIG: task worker 2, but the cluster lists 2 workers (0 and 1): a:1, b:2.",
    ),
    "an index past three": (
        {"worker": ["a:1", "b:2", "c:3"]},
        {"type": "worker", "index": 3},
        "TF_CONFIG: task worker 3, but the cluster lists 3 workers (0 to 2): a:1, b:2, c:3.",
    ),
    "an index past one": (
        {"worker": ["a:1"]},
        {"type": "worker", "index": 1},
        "TF_CONFIG: task worker 1, but the cluster lists 1 worker (only 0): a:1.",
    ),
    "a job that does not exist": (
        TWO,
        {"type": "ps", "index": 0},
        "TF_CONFIG: task ps 0, but the cluster lists no ps.",
    ),
    "a fraction": (
        TWO,
        {"type": "worker", "index": 0.5},
        "TF_CONFIG: the task index is 0.5; expected a whole number, 0 or more.",
    ),
    "a negative index": (
        TWO,
        {"type": "worker", "index": -1},
        "TF_CONFIG: the task index is -1; expected a whole number, 0 or more.",
    ),
    "an index in words": (
        TWO,
        {"type": "worker", "index": "one"},
        "TF_CONFIG: the task index is 'one'; expected a whole number, 0 or more.",
    ),
    "a truth value": (
        TWO,
        {"type": "worker", "index": True},
        "TF_CONFIG: the task index is true; expected a whole number, 0 or more.",
    ),
    "a second evaluator": (
        TWO,
        {"type": "evaluator", "index": 1},
        "TF_CONFIG: task evaluator 1, but a cluster has one evaluator; write index 0.",
    ),
    "worker 1 of nothing": (
        None,
        {"type": "worker", "index": 1},
        f'TF_CONFIG: this is worker 1, but there is no "cluster"; it has to look like {EXAMPLE}.',
    ),
    "an evaluator of nothing": (
        None,
        {"type": "evaluator", "index": 0},
        f'TF_CONFIG: this is evaluator 0, but there is no "cluster"; it has to look like '
        f"{EXAMPLE}.",
    ),
    "the same address twice": (
        {"worker": ["a:1", "b:2"], "ps": ["a:1"]},
        WORKER_0,
        "TF_CONFIG: worker 0 and ps 0 have the same address a:1; every task needs its own port.",
    ),
    "an evaluator inside": (
        TWO | {"evaluator": ["e:1"]},
        WORKER_0,
        'TF_CONFIG: an evaluator does not belong in "cluster", as no task connects to it; '
        'remove it there, and start it with "task": {"type": "evaluator", "index": 0}.',
    ),
    "two chiefs": (
        {"chief": ["a:1", "b:2"]},
        {"type": "chief", "index": 0},
        "TF_CONFIG: the cluster lists 2 chiefs (a:1, b:2), but it can have only one; list the "
        'others as "worker".',
    ),
    "a chief and a master": (
        {"chief": ["a:1"], "master": ["b:2"]},
        {"type": "chief", "index": 0},
        "TF_CONFIG: the cluster lists 2 chiefs (a:1, b:2), but it can have only one; list the "
        'others as "worker".',
    ),
    "a ps alone": (
        {"ps": ["a:1"]},
        {"type": "ps", "index": 0},
        'TF_CONFIG: the cluster lists a ps, but no chief and no worker; add "worker": '
        '["host:2222", …].',
    ),
    "an unknown job": (
        {"workers": ["a:1"]},
        WORKER_0,
        "TF_CONFIG: \"cluster\" has the job 'workers'; expected chief, worker, ps.",
    ),
    "a cluster that is a list": (
        ["a:1", "b:2"],
        WORKER_0,
        'TF_CONFIG: "cluster" is ["a:1", "b:2"]; expected the lists of addresses by job, '
        '{"worker": ["host0:2222", "host1:2222"]}.',
    ),
    "a job that is not a list": (
        {"worker": "a:1,b:2"},
        WORKER_0,
        "TF_CONFIG: the job 'worker' is 'a:1,b:2'; expected a list of addresses, "
        '["host0:2222", "host1:2222"].',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_in_a_cluster_are_named(case):
    cluster, task, message = BAD[case]
    with pytest.raises(UserError) as raised:
        find(cluster, task)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "address",
    ["a", "a:", ":1", "a:0", "a:65536", "a:b", "grpc://a:1", "a:1:2", "a b:1", "", 2222, None],
)
def test_an_address_is_host_and_port(address):
    with pytest.raises(UserError) as raised:
        find({"worker": ["ok:1", address]}, WORKER_0)
    shown = repr(address) if isinstance(address, str) else json.dumps(address)
    assert str(raised.value) == (
        f"TF_CONFIG: the job 'worker' has the address {shown}; expected host:port, "
        'such as "host0:2222" or "10.0.0.1:2222".'
    )


def test_finding_a_cluster_does_not_import_tensorflow():
    code = (
        "import sys; from tfbig.clusters.find import find_cluster; "
        "find_cluster({'TF_CONFIG': "
        '\'{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}\'}); '
        "print([m for m in ('tensorflow', 'keras', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "[]\n"
