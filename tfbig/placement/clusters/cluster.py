"""What a task knows about the cluster it belongs to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfbig.errors import UserError

TRAINING_JOBS = ("chief", "worker")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The tasks of a cluster, and which of them this process is.

    Example:

        cluster = Cluster("TF_CONFIG", {"worker": ("a:2222", "b:2222")}, "worker", 1)
        cluster.describe(0)  # "worker 0 at a:2222"

    Attributes:
        kind: where it was found: "TF_CONFIG", "SLURM" or "Kubernetes".
        jobs: the addresses of the tasks of each job, "chief", "worker" and "ps". An evaluator is
            in none: nobody connects to it.
        task_type: of this process: "chief", "worker", "ps" or "evaluator".
        task_index: its place among those of its type.
    """

    kind: str
    jobs: Mapping[str, tuple[str, ...]]
    task_type: str
    task_index: int

    @property
    def workers(self) -> tuple[str, ...]:
        """The addresses of all tasks that train, the chief's first."""
        return tuple(address for job in TRAINING_JOBS for address in self.jobs.get(job, ()))

    @property
    def index(self) -> int:
        """The place of this task in `workers`.

        Raises:
            UserError: it is none of them.
        """
        if self.task_type not in TRAINING_JOBS:
            raise UserError(f"{self.task} does not train; it has no place among the workers.")
        return self.task_index + (
            len(self.jobs.get("chief", ())) if self.task_type == "worker" else 0
        )

    @property
    def is_chief(self) -> bool:
        """Whether this task is the one that saves: the chief, or worker 0 where there is none."""
        return self.task_type in TRAINING_JOBS and self.index == 0

    @property
    def address(self) -> str | None:
        """The "host:port" of this task; None for an evaluator."""
        return None if self.task_type == "evaluator" else self.jobs[self.task_type][self.task_index]

    @property
    def task(self) -> str:
        """This task in words: "chief", "worker 1", "ps 0" or "evaluator"."""
        return _named(self.task_type, self.task_index)

    @property
    def strategy(self) -> str:
        """The name of the strategy for it: "parameter_server" with a ps, else "multi_worker"."""
        return "parameter_server" if "ps" in self.jobs else "multi_worker"

    def describe(self, index: int) -> str:
        """One of `workers` in words: "worker 1 at host:port" or "chief at host:port"."""
        chiefs = len(self.jobs.get("chief", ()))
        name = "chief" if index < chiefs else f"worker {index - chiefs}"
        return f"{name} at {self.workers[index]}"

    def explain(self) -> str:
        """The strategy and why, in one line.

        Example: "multi_worker: TF_CONFIG lists 2 workers; this is worker 1".
        """
        parts = [
            _counted(job, len(self.jobs[job]))
            for job in (*TRAINING_JOBS, "ps")
            if self.jobs.get(job)
        ]
        listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        one = self.task_type in ("chief", "evaluator")
        return f"{self.strategy}: {self.kind} lists {listed}; this is {'the ' * one}{self.task}"

    def tf_config(self) -> dict[str, Any]:
        """The TF_CONFIG of this task, for what reads that variable itself."""
        return {
            "cluster": {job: list(addresses) for job, addresses in self.jobs.items()},
            "task": {"type": self.task_type, "index": self.task_index},
        }


def _named(task_type: str, index: int) -> str:
    return task_type if task_type in ("chief", "evaluator") else f"{task_type} {index}"


def _counted(job: str, count: int) -> str:
    if job == "chief":
        return "a chief"
    return f"{count} {job}{'s' if job == 'worker' and count > 1 else ''}"
