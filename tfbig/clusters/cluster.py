"""What a task knows about its cluster, and the interface of a kind of cluster."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

from tfbig.errors import UserError

TRAINING_JOBS = ("chief", "worker")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The tasks of a cluster, and which of them is this process.

    Example:

        cluster = Cluster("TF_CONFIG", {"worker": ("a:2222", "b:2222")}, "worker", 1)
        cluster.describe(0)  # "worker 0 at a:2222"

    Attributes:
        kind: the kind of cluster: "TF_CONFIG", "SLURM" or "Kubernetes".
        jobs: the addresses of the tasks of each job: "chief", "worker" and "ps". An evaluator is
            not listed, because no task connects to it.
        task_type: the type of this task: "chief", "worker", "ps" or "evaluator".
        task_index: the index of this task among the tasks of its type.
    """

    kind: str
    jobs: Mapping[str, tuple[str, ...]]
    task_type: str
    task_index: int

    @property
    def workers(self) -> tuple[str, ...]:
        """The addresses of all tasks that train, the chief first."""
        return tuple(address for job in TRAINING_JOBS for address in self.jobs.get(job, ()))

    @property
    def index(self) -> int:
        """The index of this task in `workers`.

        Raises:
            UserError: this task does not train.
        """
        if self.task_type not in TRAINING_JOBS:
            raise UserError(f"{self.task} does not train, so it has no index among the workers.")
        return self.task_index + (
            len(self.jobs.get("chief", ())) if self.task_type == "worker" else 0
        )

    @property
    def is_chief(self) -> bool:
        """Whether this task saves: it is the chief, or worker 0 of a cluster without a chief."""
        return self.task_type in TRAINING_JOBS and self.index == 0

    @property
    def address(self) -> str | None:
        """The "host:port" of this task; None for an evaluator."""
        return None if self.task_type == "evaluator" else self.jobs[self.task_type][self.task_index]

    @property
    def task(self) -> str:
        """The name of this task: "chief", "worker 1", "ps 0" or "evaluator"."""
        return _task_name(self.task_type, self.task_index)

    @property
    def strategy(self) -> str:
        """The strategy for this cluster: "parameter_server" if it has a ps, else "multi_worker"."""
        return "parameter_server" if "ps" in self.jobs else "multi_worker"

    def describe(self, index: int) -> str:
        """Describes one of `workers`: "worker 1 at host:port" or "chief at host:port"."""
        chiefs = len(self.jobs.get("chief", ()))
        name = "chief" if index < chiefs else f"worker {index - chiefs}"
        return f"{name} at {self.workers[index]}"

    def explain(self) -> str:
        """Returns the strategy and the reason for it, in one line.

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
        """Returns the TF_CONFIG of this task, for code that reads that variable itself."""
        return {
            "cluster": {job: list(addresses) for job, addresses in self.jobs.items()},
            "task": {"type": self.task_type, "index": self.task_index},
        }


def _task_name(task_type: str, index: int) -> str:
    return task_type if task_type in ("chief", "evaluator") else f"{task_type} {index}"


def _counted(job: str, count: int) -> str:
    if job == "chief":
        return "a chief"
    return f"{count} {job}{'s' if job == 'worker' and count > 1 else ''}"


class ClusterKind(abc.ABC):
    """Reads one kind of cluster from the environment variables that its scheduler sets.

    A new kind is a module with one subclass, and an entry in `find.KINDS`.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of this kind for messages, such as "SLURM"."""

    @abc.abstractmethod
    def find(self, environ: Mapping[str, str]) -> Cluster | None:
        """Returns the cluster that the variables describe; None if they are not set.

        It also returns None for a cluster of a single task, whose training is not distributed.

        Raises:
            UserError: the variables are set but do not describe a cluster.
        """


def whole_number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    """Returns the value of a variable that has to be a whole number.

    Raises:
        UserError: the value is not a whole number, or is less than `least`.
    """
    text = environ[name].strip()
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise UserError(f"{name}={environ[name]!r}: expected a whole number, {least} or more.")
    return int(text)
