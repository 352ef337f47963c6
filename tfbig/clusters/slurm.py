"""SLURM: the tasks of a step, which `srun` starts on the nodes of an allocation."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from typing_extensions import override

from tfbig.clusters.cluster import Cluster, ClusterKind, whole_number
from tfbig.errors import UserError

# The variables that tf.distribute.cluster_resolver.SlurmClusterResolver reads.
_NEEDED = (
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
)
# Below 32768, where Linux starts to assign ports to outgoing connections.
_FIRST_PORT, _BLOCKS, _PORTS_OF_A_STEP = 15000, 1100, 16
_STEPS_APART = 331  # has no divisor in common with _BLOCKS


class Slurm(ClusterKind):
    """Reads the SLURM_ variables of a step; outside of a step there is no cluster.

    SLURM_NTASKS is also set in a job's batch script and in a shell from `salloc`, which run once.
    """

    name = "SLURM"

    @override
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
                f"{'is' if len(missing) == 1 else 'are'} not set, which the tasks need to find "
                "each other; start the program with srun directly, and let it pass the environment "
                "on."
            )
        addresses = _addresses(environ)
        return Cluster(self.name, {"worker": addresses}, "worker", _own_index(environ, addresses))


def _addresses(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The addresses of all tasks; on every node the ports count up from the step's first port."""
    import tensorflow as tf  # imported here, because the command line does not need it

    tasks, port = whole_number(environ, "SLURM_STEP_NUM_TASKS", least=1), _port(environ)
    whole_number(environ, "SLURM_PROCID")
    try:
        with _environ_for_resolver(environ):
            # auto_set_gpu fails if nvidia-smi is missing or there are fewer GPUs than tasks.
            # `srun --gpus-per-task=1` gives every task its own GPU.
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
                port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
            )
            return tuple(resolver.cluster_spec().job_tasks("worker"))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"SLURM: SLURM_STEP_NODELIST={environ['SLURM_STEP_NODELIST']} and "
            f"SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']} do not "
            f"describe a cluster of {tasks} tasks ({' '.join(str(error).split()).rstrip('.')}); "
            "set TF_CONFIG instead."
        ) from error


def _own_index(environ: Mapping[str, str], addresses: tuple[str, ...]) -> int:
    """The index of this task among the addresses.

    The resolver sorts the nodes by name, node10 before node9. SLURM numbers the tasks in its own
    order of nodes, or round-robin over them. So a task is found by the node on which it runs; if
    the variables do not name the node, by its rank.
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
    """The first port of a step; jobs and steps that may share a node get different ports."""
    job = whole_number(environ, "SLURM_JOB_ID")
    name = next((n for n in ("SLURM_STEP_ID", "SLURM_STEPID") if n in environ), None)
    step = whole_number(environ, name) if name else 0
    return _FIRST_PORT + (job + step * _STEPS_APART) % _BLOCKS * _PORTS_OF_A_STEP


@contextlib.contextmanager
def _environ_for_resolver(environ: Mapping[str, str]) -> Iterator[None]:
    """Sets the variables in os.environ inside the block, because the resolver reads them there."""
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
