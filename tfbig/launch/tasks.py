"""The tasks of a cluster on this machine, and the variables that each of them gets."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from tfbig.placement.clusters.cluster import TRAINING_JOBS, Cluster

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        type: "chief", "worker", "ps" or "evaluator".
        index: its place among those of its type.
        is_chief: whether the job has ended when it has.
    """

    type: str
    index: int
    is_chief: bool = False

    @property
    def name(self) -> str:
        """What its lines begin with: "worker 1", "chief"."""
        alone = self.type in ("chief", "evaluator")
        return self.type if alone else f"{self.type} {self.index}"

    @property
    def trains(self) -> bool:
        return self.type in TRAINING_JOBS


def cluster_tasks(workers: int, ps: int, evaluator: bool) -> list[Task]:
    """The tasks of a cluster, the chief first.

    Without a ps, worker 0 is the chief. With one, the chief is a task of its own, which hands the
    steps out to the workers.
    """
    tasks = [Task("chief", 0, is_chief=True)] if ps else []
    tasks += [Task("worker", i, is_chief=not ps and i == 0) for i in range(workers)]
    tasks += [Task("ps", i) for i in range(ps)]
    if evaluator:
        tasks.append(Task("evaluator", 0))
    return tasks


def environments(
    tasks: Sequence[Task],
    ports: Sequence[int],
    attempt: int,
    threads: int | None,
    environ: Mapping[str, str],
) -> list[dict[str, str]]:
    """The variables of each task.

    Args:
        tasks: all of the cluster.
        ports: one for each task that is not an evaluator.
        attempt: how often the cluster has been started before.
        threads: of each task; None: its share of the cores, unless `environ` says how many.
        environ: the variables of the launcher, which the tasks get too.
    """
    jobs: dict[str, tuple[str, ...]] = {}
    listed = [task for task in tasks if task.type != "evaluator"]
    for task, port in zip(listed, ports, strict=True):
        jobs[task.type] = (*jobs.get(task.type, ()), f"127.0.0.1:{port}")
    common = {
        **environ,
        "PYTHONUNBUFFERED": "1",
        "TFBIG_LAUNCH_ATTEMPT": str(attempt),
    }
    has_servers = any(task.type == "ps" for task in tasks)
    # TensorFlow logs much about how tasks connect. "1" is what tfbig sets by itself.
    if has_servers and common.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        common["TF_CPP_MIN_LOG_LEVEL"] = "2"
    if any(task.type == "evaluator" for task in tasks):
        common["TFBIG_EVALUATOR"] = "1"
    share = max(1, len(os.sched_getaffinity(0)) // sum(task.trains for task in tasks))
    for name in _THREADS:
        if threads is not None or name not in environ:
            common[name] = str(threads or share)
    return [
        common
        | {"TF_CONFIG": json.dumps(Cluster("TF_CONFIG", jobs, task.type, task.index).tf_config())}
        for task in tasks
    ]
