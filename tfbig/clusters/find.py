"""Finds the cluster that this process belongs to."""

import os
from collections.abc import Mapping

from tfbig.clusters.cluster import Cluster, ClusterKind
from tfbig.clusters.kubernetes import Kubernetes
from tfbig.clusters.slurm import Slurm
from tfbig.clusters.tf_config import TFConfig
from tfbig.errors import UserError

__all__ = [
    "TIMEOUT_VARIABLE",
    "Cluster",
    "check_multi_worker",
    "check_parameter_server",
    "cluster_timeout",
    "environ_without_cluster",
    "find_cluster",
    "has_evaluator",
    "is_chief",
    "is_cluster_of_one",
]

# The first kind that finds a cluster is used, so an explicit TF_CONFIG has precedence.
KINDS: tuple[ClusterKind, ...] = (TFConfig(), Kubernetes(), Slurm())

TIMEOUT_VARIABLE = "TFBIG_CLUSTER_TIMEOUT"  # seconds in which all tasks have to connect
_DEFAULT_TIMEOUT = 300.0
_EVALUATOR_VARIABLE = "TFBIG_EVALUATOR"  # not 0: there is one, which TF_CONFIG does not say
_SIZES = ("TF_CONFIG", "TFBIG_WORKERS", "SLURM_NTASKS")  # one of these is set in every cluster


def find_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Finds the cluster that the environment variables describe; None if there is none.

    TF_CONFIG comes first, then an indexed Kubernetes Job with TFBIG_WORKERS, then the tasks of a
    SLURM step. The result is also None if the cluster has a single task, which trains.

    Example: `find_cluster({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": …}'})`.

    Args:
        environ: the environment variables.

    Raises:
        UserError: variables are set but do not describe a cluster.
    """
    for kind in KINDS:
        cluster = kind.find(environ)
        if cluster is not None:
            return cluster
    return None


def is_cluster_of_one(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the variables describe a cluster of a single task, as in a shrunken elastic job."""
    return any(environ.get(name, "").strip() for name in _SIZES) and find_cluster(environ) is None


def has_evaluator(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the cluster of this task has an evaluator task."""
    return environ.get(_EVALUATOR_VARIABLE, "").strip() not in ("", "0")


def is_chief(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process writes and reports: it is the chief, or there is no cluster."""
    cluster = find_cluster(environ)
    return cluster is None or cluster.is_chief


def environ_without_cluster(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the environment for a child process that must not join this process's cluster."""
    hidden = {*_SIZES, "SLURM_JOB_ID"}
    return {name: value for name, value in environ.items() if name not in hidden}


def check_multi_worker(cluster: Cluster) -> None:
    """Checks that strategy="multi_worker" can train on all tasks of a cluster.

    Raises:
        UserError: the cluster has parameter servers, which this strategy does not use.
    """
    servers = cluster.jobs.get("ps", ())
    if servers:
        named = ", ".join(f"ps {i} at {address}" for i, address in enumerate(servers))
        raise UserError(
            f'strategy="multi_worker", but the cluster of {cluster.kind} has {len(servers)} ps '
            f'({named}), which this strategy does not use. Write strategy="parameter_server", or '
            "remove the ps from the cluster."
        )


def check_parameter_server(cluster: Cluster) -> None:
    """Checks that strategy="parameter_server" can train on the tasks of a cluster.

    Raises:
        UserError: the cluster has no chief, no worker or no ps.
    """
    for job in ("chief", "worker", "ps"):
        if not cluster.jobs.get(job):
            found = ", ".join(f"{len(tasks)} {name}" for name, tasks in cluster.jobs.items())
            raise UserError(
                f'strategy="parameter_server" needs a chief, workers and ps, and the cluster of '
                f"{cluster.kind} has no {job} (it has {found}). Try it on this machine: tfbig "
                "launch --workers=2 --ps=1 -- python script.py."
            )


def cluster_timeout(environ: Mapping[str, str] = os.environ) -> float:
    """Returns the seconds in which all tasks have to connect: TFBIG_CLUSTER_TIMEOUT, or 300.

    Raises:
        UserError: the variable is not a positive number.
    """
    text = environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return _DEFAULT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(f"{TIMEOUT_VARIABLE}={text!r}: expected seconds above 0, for example 300.")
    return seconds
