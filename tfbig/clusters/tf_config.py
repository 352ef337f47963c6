"""TF_CONFIG: the variable in which a user, or Kubeflow, describes the cluster.

The format is that of tf.distribute.cluster_resolver.TFConfigClusterResolver, which checks little
of it. With an index that does not exist, for example, the other tasks would wait forever.
"""

import json
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from tfbig.clusters.cluster import TRAINING_JOBS, Cluster, ClusterKind
from tfbig.errors import UserError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_JOBS = ("chief", "worker", "ps")
_TYPES = (*_JOBS, "evaluator")
# Other keys, which TensorFlow and Google Cloud's training services set.
_OTHER_KEYS = {
    *("environment", "job", "rpc_layer", "service", "session_master", "eval_session_master"),
    *("model_dir", "trial"),
}
_MAX_QUOTED = 60  # characters of a value in an error message


class TFConfig(ClusterKind):
    """Reads and checks the variable TF_CONFIG."""

    name = "TF_CONFIG"

    @override
    def find(self, environ: Mapping[str, str]) -> Cluster | None:
        text = environ.get("TF_CONFIG", "")
        if not text.strip():
            return None
        config = _parsed(text)
        jobs = _jobs(config)
        task_type, index = _task(config, jobs)
        if not jobs or (sum(map(len, jobs.values())) == 1 and task_type != "evaluator"):
            return None
        return Cluster(self.name, jobs, task_type, index)


def model_dir_of(environ: Mapping[str, str]) -> str | None:
    """Returns the model_dir in TF_CONFIG, which tf.estimator read too; None if there is none.

    Raises:
        UserError: TF_CONFIG is not JSON, or its model_dir is no path.
    """
    text = environ.get("TF_CONFIG", "")
    folder = _parsed(text).get("model_dir") if text.strip() else None
    if folder is not None and not (isinstance(folder, str) and folder):
        raise UserError(
            f"model_dir in TF_CONFIG should be non-empty: it is {_short(folder)}; write a path, or "
            "leave it out."
        )
    return folder


def _parsed(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"TF_CONFIG is not JSON: {error.msg} at line {error.lineno}, column {error.colno} of "
            f"{_short(text)}. It has to look like {_EXAMPLE}."
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"TF_CONFIG is {_short(text)}; it has to look like {_EXAMPLE}.")
    unknown = [key for key in config if key not in {"cluster", "task", *_OTHER_KEYS}]
    if "cluster" not in config and unknown:
        raise UserError(
            f'TF_CONFIG has no "cluster", but {", ".join(map(repr, unknown))}; it has to look like '
            f"{_EXAMPLE}."
        )
    return config


def _jobs(config: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Reads and checks the addresses by job, in the order chief, worker, ps."""
    cluster = config.get("cluster") or {}
    if not isinstance(cluster, dict):
        raise UserError(
            f'TF_CONFIG: "cluster" is {_short(cluster)}; expected the lists of addresses by job, '
            '{"worker": ["host0:2222", "host1:2222"]}.'
        )
    jobs: dict[str, tuple[str, ...]] = {}
    for job, addresses in cluster.items():
        if job == "evaluator":
            raise UserError(
                'TF_CONFIG: an evaluator does not belong in "cluster", as no task connects to '
                'it; remove it there, and start it with "task": {"type": "evaluator", "index": 0}.'
            )
        name = _current_name(job)
        if name not in _JOBS:
            raise UserError(
                f'TF_CONFIG: "cluster" has the job {job!r}; expected {", ".join(_JOBS)}.'
            )
        if not isinstance(addresses, list):
            raise UserError(
                f"TF_CONFIG: the job {job!r} is {_short(addresses)}; expected a list of "
                'addresses, ["host0:2222", "host1:2222"].'
            )
        for address in addresses:
            _check_address(job, address)
        jobs[name] = jobs.get(name, ()) + tuple(addresses)
    jobs = {job: jobs[job] for job in _JOBS if jobs.get(job)}
    _check_jobs(jobs)
    return jobs


def _check_jobs(jobs: dict[str, tuple[str, ...]]) -> None:
    chiefs = jobs.get("chief", ())
    if len(chiefs) > 1:
        raise UserError(
            f"TF_CONFIG: the cluster lists {len(chiefs)} chiefs ({', '.join(chiefs)}), but "
            'it can have only one; list the others as "worker".'
        )
    if jobs and not any(job in jobs for job in TRAINING_JOBS):
        raise UserError(
            'TF_CONFIG: the cluster lists a ps, but no chief and no worker; add "worker": '
            '["host:2222", …].'
        )
    seen: dict[str, str] = {}
    for job, addresses in jobs.items():
        for i, address in enumerate(addresses):
            task = f"{job} {i}"
            if address in seen:
                raise UserError(
                    f"TF_CONFIG: {seen[address]} and {task} have the same address {address}; "
                    "every task needs its own port."
                )
            seen[address] = task


def _check_address(job: str, address: Any) -> None:
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    is_ipv6 = host.startswith("[") and host.endswith("]") and len(host) > 2
    good_host = is_ipv6 or (host and not set(host) & set(":/[] \t\n"))
    good_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not (colon and good_host and good_port):
        raise UserError(
            f"TF_CONFIG: the job {job!r} has the address {_short(address)}; expected host:port, "
            'such as "host0:2222" or "10.0.0.1:2222".'
        )


def _task(config: dict[str, Any], jobs: dict[str, tuple[str, ...]]) -> tuple[str, int]:
    """Reads and checks the type and index of this task."""
    task = config.get("task")
    if task is None and not jobs:
        return "worker", 0
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        received = 'no "task"' if task is None else f'"task": {_short(task)}'
        raise UserError(
            f"TF_CONFIG has {received}, so this process does not know which task it is; add "
            '"task": {"type": "worker", "index": 0}, with its own type and index.'
        )
    task_type = _current_name(task["type"])
    if task_type not in _TYPES:
        raise UserError(
            f"TF_CONFIG: the task type is {_short(task['type'])}; expected one of "
            f"{', '.join(_TYPES)}."
        )
    index = _index(task["index"])
    if not jobs and (task_type not in TRAINING_JOBS or index):
        raise UserError(
            f'TF_CONFIG: this is {task_type} {index}, but there is no "cluster"; it has to look '
            f"like {_EXAMPLE}."
        )
    if task_type == "evaluator" and index:
        raise UserError(
            f"TF_CONFIG: task evaluator {index}, but a cluster has one evaluator; write index 0."
        )
    if jobs and task_type != "evaluator" and index >= len(jobs.get(task_type, ())):
        raise UserError(
            f"TF_CONFIG: task {task_type} {index}, but the cluster lists "
            f"{_listed(task_type, jobs.get(task_type, ()))}."
        )
    return task_type, index


def _listed(job: str, addresses: tuple[str, ...]) -> str:
    """The tasks of a job, to continue "the cluster lists"."""
    if not addresses:
        return f"no {job}"
    numbers = "only 0" if len(addresses) == 1 else f"0 to {len(addresses) - 1}"
    if len(addresses) == 2:
        numbers = "0 and 1"
    plural = "s" if len(addresses) > 1 and job != "ps" else ""
    return f"{len(addresses)} {job}{plural} ({numbers}): {', '.join(addresses)}"


def _index(value: Any) -> int:
    """Reads a whole number, which may be a string, as TensorFlow accepts one too."""
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return int(text)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(
            f"TF_CONFIG: the task index is {_short(value)}; expected a whole number, 0 or more."
        )
    return value


def _current_name(job: Any) -> Any:
    return "chief" if job == "master" else job  # the name in TensorFlow 1


def _short(value: Any) -> str:
    """Formats a value as JSON, or a string as it is; shortens what is too long for an error."""
    text = value if isinstance(value, str) else json.dumps(value)
    shown = text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 1] + "…"
    return repr(shown) if isinstance(value, str) else shown
