"""The tasks of a cluster on this machine, and their environment variables."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from tfbig.clusters.cluster import TRAINING_JOBS, Cluster

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the cluster.

    Attributes:
        type: "chief", "worker", "ps" or "evaluator".
        index: the index among the tasks of this type.
        is_chief: whether the job ends with this task.
    """

    type: str
    index: int
    is_chief: bool = False

    @property
    def name(self) -> str:
        """The name for messages: "worker 1", "chief"."""
        is_single = self.type in ("chief", "evaluator")
        return self.type if is_single else f"{self.type} {self.index}"

    @property
    def trains(self) -> bool:
        """Whether the task takes part in training: a chief or a worker."""
        return self.type in TRAINING_JOBS


def cluster_tasks(workers: int, ps: int, evaluator: bool) -> list[Task]:
    """Returns the tasks of a cluster, starting with the chief.

    Without parameter servers, worker 0 is the chief. With them, there is a separate chief, which
    schedules the steps on the workers.
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
    """Returns the environment variables of each task.

    Args:
        tasks: all tasks of the cluster.
        ports: one port for each task except evaluators.
        attempt: the number of earlier starts of the cluster.
        threads: the number of threads of each task; None shares the cores among the tasks that
            train, unless `environ` sets the number.
        environ: the variables of the launcher, which all tasks inherit.
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
    # TensorFlow logs many lines when tasks connect. "1" is the default that tfbig sets.
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
