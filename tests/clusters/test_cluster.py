"""What a task knows about its cluster, and the precedence of the variables."""

import json

import pytest

from tfbig.clusters.find import Cluster, check_multi_worker, find_cluster
from tfbig.errors import UserError

WORKERS = {"worker": ("a:1", "b:2")}
ALL = {"chief": ("c:1",), "worker": ("w:1", "w:2"), "ps": ("p:1",)}


def cluster(jobs=ALL, task_type="worker", index=1) -> Cluster:
    return Cluster("TF_CONFIG", jobs, task_type, index)


@pytest.mark.parametrize(
    ("jobs", "task_type", "task_index", "index", "is_chief", "address"),
    [
        (WORKERS, "worker", 0, 0, True, "a:1"),
        (WORKERS, "worker", 1, 1, False, "b:2"),
        (ALL, "chief", 0, 0, True, "c:1"),
        (ALL, "worker", 0, 1, False, "w:1"),
        (ALL, "worker", 1, 2, False, "w:2"),
    ],
)
def test_a_task_that_trains_has_an_index(jobs, task_type, task_index, index, is_chief, address):
    task = cluster(jobs, task_type, task_index)
    assert (task.index, task.is_chief, task.address) == (index, is_chief, address)
    assert task.workers[index] == address


@pytest.mark.parametrize(
    ("task_type", "address", "name"), [("ps", "p:1", "ps 0"), ("evaluator", None, "evaluator")]
)
def test_a_task_that_does_not_train_has_no_index(task_type, address, name):
    task = cluster(ALL, task_type, 0)
    assert (task.is_chief, task.address) == (False, address)
    with pytest.raises(UserError) as raised:
        _ = task.index
    assert str(raised.value) == f"{name} does not train, so it has no index among the workers."


def test_workers_are_described_with_the_names_in_the_cluster():
    assert cluster().workers == ("c:1", "w:1", "w:2")
    assert [cluster().describe(i) for i in range(3)] == [
        "chief at c:1",
        "worker 0 at w:1",
        "worker 1 at w:2",
    ]
    assert [cluster(WORKERS).describe(i) for i in range(2)] == [
        "worker 0 at a:1",
        "worker 1 at b:2",
    ]


@pytest.mark.parametrize(
    ("jobs", "task_type", "index", "line"),
    [
        (WORKERS, "worker", 1, "multi_worker: TF_CONFIG lists 2 workers; this is worker 1"),
        (WORKERS, "evaluator", 0, "multi_worker: TF_CONFIG lists 2 workers; this is the evaluator"),
        (
            {"chief": ("c:1",), "worker": ("w:1",)},
            "chief",
            0,
            "multi_worker: TF_CONFIG lists a chief and 1 worker; this is the chief",
        ),
        (
            ALL,
            "ps",
            0,
            "parameter_server: TF_CONFIG lists a chief, 2 workers and 1 ps; this is ps 0",
        ),
    ],
)
def test_explain_states_the_strategy_and_the_reason(jobs, task_type, index, line):
    task = cluster(jobs, task_type, index)
    assert task.explain() == line
    assert task.strategy == line.partition(":")[0]


def test_the_tf_config_of_a_cluster_describes_the_same_cluster():
    for task in (cluster(), cluster(ALL, "ps", 0), cluster(ALL, "evaluator", 0)):
        assert find_cluster({"TF_CONFIG": json.dumps(task.tf_config())}) == task


def test_multi_worker_rejects_a_cluster_with_parameter_servers():
    check_multi_worker(cluster(WORKERS))
    with pytest.raises(UserError) as raised:
        check_multi_worker(cluster())
    assert str(raised.value) == (
        'strategy="multi_worker", but the cluster of TF_CONFIG has 1 ps (ps 0 at p:1), which this '
        'strategy does not use. Write strategy="parameter_server", or remove the ps from the '
        "cluster."
    )


TF_CONFIG = {"TF_CONFIG": json.dumps(cluster(WORKERS).tf_config())}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "1",
    "TFBIG_WORKERS": "3",
    "TFBIG_SERVICE": "svc",
    "HOSTNAME": "digits-1",
}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURMD_NODENAME": "n2",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        (TF_CONFIG | KUBERNETES | SLURM, "TF_CONFIG"),
        (KUBERNETES | SLURM, "Kubernetes"),
        (SLURM, "SLURM"),
        (SLURM | {"TF_CONFIG": "{}"}, "SLURM"),
        ({"PATH": "/bin"}, None),
        ({}, None),
    ],
)
def test_tf_config_comes_before_kubernetes_before_slurm(environ, kind):
    found = find_cluster(environ)
    assert (found and found.kind) == kind


def test_the_environment_of_the_process_is_read(monkeypatch):
    for name in (*TF_CONFIG, *KUBERNETES, *SLURM):
        monkeypatch.delenv(name, raising=False)
    assert find_cluster() is None
    monkeypatch.setenv("TF_CONFIG", TF_CONFIG["TF_CONFIG"])
    assert find_cluster() == cluster(WORKERS)
