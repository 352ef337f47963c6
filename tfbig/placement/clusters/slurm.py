"""SLURM: the tasks of a step, which `srun` starts on the nodes of an allocation."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from tfbig.errors import UserError
from tfbig.placement.clusters.cluster import Cluster
from tfbig.placement.clusters.cluster_kind import ClusterKind, whole_number

# What tf.distribute.cluster_resolver.SlurmClusterResolver reads.
_NEEDED = (
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
)
# Below 32768, where Linux begins to give ports to whoever connects to somebody.
_FIRST_PORT, _BLOCKS, _PORTS_OF_A_STEP = 15000, 1100, 16
_STEPS_APART = 331  # has no divisor in common with _BLOCKS


class Slurm(ClusterKind):
    """Reads the SLURM_ variables of a step; outside of one there is no cluster.

    A job's own script, and a shell from `salloc`, have SLURM_NTASKS too, but run once.
    """

    name = "SLURM"

    def find(self, environ: Mapping[str, str]) -> Cluster | None:
        in_step = any(name.startswith(("SLURM_STEP_", "SLURM_STEPID")) for name in environ)
        if "SLURM_JOB_ID" not in environ or not in_step:
            return None
        counts = [name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if name in environ]
        if not counts or whole_number(environ, counts[0], least=1) == 1:
            return None
        missing = [name for name in _NEEDED if name not in environ]
        if missing:
            raise UserError(
                f"SLURM: {counts[0]}={environ[counts[0]]}, but {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set, by which the tasks find each "
                "other; start the program with srun itself, and let it pass the environment on."
            )
        addresses = _addresses(environ)
        return Cluster(self.name, {"worker": addresses}, "worker", _own_index(environ, addresses))


def _addresses(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The addresses of all tasks: every node's have the step's first port and those after it."""
    import tensorflow as tf  # a task that trains needs it anyway; the command line does not

    tasks, port = whole_number(environ, "SLURM_STEP_NUM_TASKS", least=1), _port(environ)
    whole_number(environ, "SLURM_PROCID")
    try:
        with _shown_to_resolver(environ):
            # It may not look for GPUs: it fails where nvidia-smi is missing or there are fewer
            # GPUs than tasks. `srun --gpus-per-task=1` gives every task its own.
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
                port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
            )
            return tuple(resolver.cluster_spec().job_tasks("worker"))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"SLURM: SLURM_STEP_NODELIST={environ['SLURM_STEP_NODELIST']} and "
            f"SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']} make no cluster of "
            f"{tasks} tasks ({' '.join(str(error).split()).rstrip('.')}); set TF_CONFIG instead."
        ) from error


def _own_index(environ: Mapping[str, str], addresses: tuple[str, ...]) -> int:
    """The place of this task among the addresses.

    The resolver sorts the nodes by name, node10 before node9, and SLURM numbers the tasks in its
    own order of nodes, or in turn over them. So a task is found by where it runs. Where that is
    not told, by its number.
    """
    if "SLURMD_NODENAME" not in environ or "SLURM_LOCALID" not in environ:
        rank = whole_number(environ, "SLURM_PROCID")
        if rank >= len(addresses):
            raise UserError(f"SLURM: SLURM_PROCID={rank}, but the step has {len(addresses)} tasks.")
        return rank
    port = _port(environ) + whole_number(environ, "SLURM_LOCALID")
    own = f"{environ['SLURMD_NODENAME']}:{port}"
    if own not in addresses:
        raise UserError(
            f"SLURM: SLURMD_NODENAME={environ['SLURMD_NODENAME']} and "
            f"SLURM_LOCALID={environ['SLURM_LOCALID']} are not among the step's tasks, which are "
            f"SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']} on "
            f"SLURM_STEP_NODELIST={environ['SLURM_STEP_NODELIST']}; set TF_CONFIG instead."
        )
    return addresses.index(own)


def _port(environ: Mapping[str, str]) -> int:
    """The first port of a step: another one for each job and step that may share a node."""
    job = whole_number(environ, "SLURM_JOB_ID")
    name = next((n for n in ("SLURM_STEP_ID", "SLURM_STEPID") if n in environ), None)
    step = whole_number(environ, name) if name else 0
    return _FIRST_PORT + (job + step * _STEPS_APART) % _BLOCKS * _PORTS_OF_A_STEP


@contextlib.contextmanager
def _shown_to_resolver(environ: Mapping[str, str]) -> Iterator[None]:
    """Lets the resolver, which reads os.environ, read these variables inside the block."""
    saved = {name: os.environ.get(name) for name in _NEEDED}
    os.environ.update({name: environ[name] for name in _NEEDED})
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
