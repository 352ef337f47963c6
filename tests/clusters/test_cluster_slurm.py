"""The tasks of a SLURM step are a cluster, and each task finds its own index."""

import os

import pytest

from tfbig.clusters.find import find_cluster
from tfbig.errors import UserError

BASE = 15000 + 77 * 16


def step(nodes: str, per_node: str, tasks: int, **changes: str | None) -> dict[str, str]:
    environ = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": per_node,
    }
    return {name: value for name, value in (environ | changes).items() if value is not None}


def on_node(node: str, local: int) -> dict[str, str]:
    return {"SLURMD_NODENAME": node, "SLURM_LOCALID": str(local)}


@pytest.mark.parametrize(
    ("nodes", "per_node", "node_of_rank"),
    [
        ("node[01-03],gpu7", "2(x3),1", ["node01", "node01", "node02", "node02", "node03",
                                         "node03", "gpu7"]),
        ("n[8-11]", "1(x4)", ["n8", "n9", "n10", "n11"]),
        ("a[1,3-4]", "3,1(x2)", ["a1", "a1", "a1", "a3", "a4"]),
        ("big", "20", ["big"] * 20),
    ],
)  # fmt: skip
def test_every_task_has_its_own_address_and_finds_it(nodes, per_node, node_of_rank):
    found, local = [], {}
    for rank, node in enumerate(node_of_rank):  # SLURM's own order
        local[node] = local.get(node, -1) + 1
        environ = step(
            nodes, per_node, len(node_of_rank), SLURM_PROCID=str(rank), **on_node(node, local[node])
        )
        found.append((find_cluster(environ), f"{node}:{BASE + local[node]}"))
    assert len({cluster.workers for cluster, _ in found}) == 1  # all see the same cluster
    assert [cluster.address for cluster, _ in found] == [address for _, address in found]
    assert sorted(cluster.index for cluster, _ in found) == list(range(len(node_of_rank)))
    assert (
        found[0][0]
        .explain()
        .startswith(f"multi_worker: SLURM lists {len(node_of_rank)} workers; this")
    )


def test_tasks_that_are_distributed_round_robin_find_their_index():
    cyclic = [("n1", 0), ("n2", 0), ("n1", 1), ("n2", 1)]
    found = [
        find_cluster(step("n[1-2]", "2(x2)", 4, SLURM_PROCID=str(rank), **on_node(*place)))
        for rank, place in enumerate(cyclic)
    ]
    assert [cluster.address for cluster in found] == [f"{n}:{BASE + i}" for n, i in cyclic]
    assert [cluster.index for cluster in found] == [0, 2, 1, 3]


def test_without_the_name_of_the_node_the_rank_is_the_index():
    found = find_cluster(step("n[1-2]", "2,1", 3, SLURM_PROCID="2"))
    assert (found.index, found.address) == (2, f"n2:{BASE}")


def test_jobs_and_steps_on_one_node_use_different_ports():
    ports = set()
    for job in (77, 78, 1177 + 1, 77 + 20000):
        for number in (0, 1):
            environ = step("n", "16", 16, SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(number))
            ports |= {address.partition(":")[2] for address in find_cluster(environ).workers}
    # Job 1178 has the ports of job 78, as 1100 jobs later the ports repeat.
    assert len(ports) == 6 * 16
    assert all(15000 <= int(port) < 32768 for port in ports)


def test_the_process_environment_stays_unchanged(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    before = dict(os.environ)
    assert find_cluster(step("n[1-2]", "1(x2)", 2, **on_node("n2", 0))).index == 1
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "environ",
    [
        step("n1", "1", 1),
        {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # the job's batch script
        {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        step("n[1-2]", "1(x2)", 2, SLURM_JOB_ID=None),
        step("n1", "1", 1, SLURM_NTASKS="4"),  # a step of one task in a job of four
    ],
)
def test_a_single_task_is_not_a_cluster(environ):
    assert find_cluster(environ) is None


START = (
    "which the tasks need to find each other; start the program with srun directly, and let it "
    "pass the environment on."
)
BAD = {
    "one variable is missing": (
        step("n[1-2]", "1(x2)", 2, SLURM_STEP_NODELIST=None),
        f"SLURM: SLURM_STEP_NUM_TASKS=2, but SLURM_STEP_NODELIST is not set, {START}",
    ),
    "several are missing": (
        {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
        "SLURM: SLURM_NTASKS=2, but SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST, "
        f"SLURM_STEP_TASKS_PER_NODE are not set, {START}",
    ),
    "nodes and tasks do not match": (
        step("n[1-2]", "1(x2)", 3),
        "SLURM: SLURM_STEP_NODELIST=n[1-2] and SLURM_STEP_TASKS_PER_NODE=1(x2) do not describe a "
        "cluster of 3 tasks (Requested 3 tasks but only 2 were assigned); set TF_CONFIG instead.",
    ),
    "a list that cannot be parsed": (
        step("r[1-2]n[1-2]", "1(x4)", 4),
        "SLURM: SLURM_STEP_NODELIST=r[1-2]n[1-2] and SLURM_STEP_TASKS_PER_NODE=1(x4) do not "
        'describe a cluster of 4 tasks (Invalid hostlist format "r[1-2]n[1-2]": Invalid part: '
        "r[1-2]n[1-2]); set TF_CONFIG instead.",
    ),
    "a node outside the step": (
        step("n[1-2]", "1(x2)", 2, **on_node("n3", 0)),
        "SLURM: SLURMD_NODENAME=n3 and SLURM_LOCALID=0 are not among the step's tasks, which are "
        "SLURM_STEP_TASKS_PER_NODE=1(x2) on SLURM_STEP_NODELIST=n[1-2]; set TF_CONFIG instead.",
    ),
    "a rank past the end": (
        step("n[1-2]", "1(x2)", 2, SLURM_PROCID="2"),
        "SLURM: SLURM_PROCID=2, but the step has 2 tasks.",
    ),
    "a rank in words": (
        step("n[1-2]", "1(x2)", 2, SLURM_PROCID="x"),
        "SLURM_PROCID='x': expected a whole number, 0 or more.",
    ),
    "a job id in words": (
        step("n[1-2]", "1(x2)", 2, SLURM_JOB_ID="x"),
        "SLURM_JOB_ID='x': expected a whole number, 0 or more.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_in_a_step_are_named(case):
    environ, message = BAD[case]
    with pytest.raises(UserError) as raised:
        find_cluster(environ)
    assert str(raised.value) == message
