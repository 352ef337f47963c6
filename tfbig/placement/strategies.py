"""From `strategy=` and `devices=` to a placement."""

import functools
import logging
import os
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.clusters.find import (
    Cluster,
    check_multi_worker,
    check_parameter_server,
    find_cluster,
    is_cluster_of_one,
)
from tfbig.errors import NotBuiltError, UserError
from tfbig.placement.control.peers import Peers
from tfbig.placement.evaluator_task import EvaluatorTask
from tfbig.placement.parameter_server.parameter_server import parameter_server
from tfbig.placement.parameter_server.serving_task import ServingTask, serving_task
from tfbig.placement.placement import Placement
from tfbig.placement.replicated.mirrored import Mirrored
from tfbig.placement.replicated.multi_worker import multi_worker

log = logging.getLogger("tfbig")

BUILT = ("auto", "one_device", "mirrored", "multi_worker", "parameter_server")
NOT_BUILT = ("tpu",)
_OF_CLUSTERS = ("auto", "multi_worker", "parameter_server")


class Trainer(NamedTuple):
    """The role of a task that trains.

    Attributes:
        placement: where it trains.
    """

    placement: Placement

    @property
    def peers(self) -> Peers:
        """The tasks that train together."""
        return self.placement.peers


def find_role(strategy: Any = "auto", devices: Any = None) -> Trainer | ServingTask | EvaluatorTask:
    """Finds what this task does in a training.

    Where the environment describes no cluster, it trains. In a cluster with ps, the chief trains,
    workers and ps serve it, and an evaluator evaluates its checkpoints.

    Args:
        strategy, devices: as for `make_placement`.

    Raises:
        UserError, NotBuiltError: as of `make_placement`.
    """
    strategy, cluster = _checked(strategy, devices, trains=True)
    if strategy != "parameter_server":
        return Trainer(_placement(strategy, devices, cluster))
    if cluster is None:
        raise UserError(
            'strategy="parameter_server", but no cluster is described: set TF_CONFIG for each '
            "task (chief, workers and ps), or try it on this machine: tfbig launch --workers=2 "
            "--ps=1 -- python script.py."
        )
    check_parameter_server(cluster)
    if devices is not None:
        raise UserError(
            f'devices={devices!r} with strategy="parameter_server": each worker uses what it '
            "sees; leave devices out."
        )
    if cluster.task_type == "evaluator":
        return EvaluatorTask(cluster, _device_names(None, most=1)[0])
    if cluster.task_type == "chief":
        return Trainer(parameter_server(cluster))
    return serving_task(cluster)


def make_placement(strategy: Any = "auto", devices: Any = None) -> Placement:
    """Makes the placement that a user asks for, for all but training (see `find_role`).

    Parameter servers are for training only. Where the environment describes such a cluster,
    "auto" is the devices of this task.

    Example: `make_placement("mirrored", 2)`: two GPUs, or two logical CPU devices on a machine
    that has none.

    Args:
        strategy: "auto", "one_device", "mirrored", "multi_worker" or a tf.distribute strategy.
            "auto" is what the cluster's variables ask for, if there are any (TF_CONFIG, SLURM,
            Kubernetes), else mirrored where there are several devices.
        devices: None, a number of devices, or their names ("GPU:0", …).

    Raises:
        UserError: the strategy is unknown, or the devices do not exist.
        NotBuiltError: the strategy exists in the API and is not built yet.
    """
    strategy, cluster = _checked(strategy, devices, trains=False)
    return _placement(strategy, devices, cluster)


def _checked(strategy: Any, devices: Any, *, trains: bool) -> tuple[Any, Cluster | None]:
    """The strategy that is meant, and the cluster that the environment describes for it."""
    if isinstance(strategy, tf.distribute.Strategy):
        return strategy, None
    if strategy in NOT_BUILT:
        raise _not_built(strategy)
    if strategy not in BUILT:
        raise UserError(
            f"strategy={strategy!r}: expected one of {', '.join(BUILT + NOT_BUILT)}, or a "
            "tf.distribute.Strategy."
        )
    if strategy == "parameter_server" and not trains:
        raise NotBuiltError(
            'strategy="parameter_server" is built for training only; leave strategy out, to work '
            "on this task's own devices."
        )
    cluster = find_cluster() if strategy in _OF_CLUSTERS else None
    chosen = cluster is not None and strategy == "auto"
    if chosen and (trains or cluster.strategy != "parameter_server"):
        strategy = cluster.strategy
        log.info("%s", cluster.explain())
    if strategy in NOT_BUILT:
        raise _not_built(strategy)
    return strategy, cluster


def _placement(strategy: Any, devices: Any, cluster: Cluster | None) -> Placement:
    if isinstance(strategy, tf.distribute.Strategy):
        return _adopt(strategy, devices)
    if strategy == "multi_worker":
        return _join(cluster, devices)
    names = _device_names(devices, most=1 if strategy == "one_device" else None)
    if strategy == "auto":
        strategy = "mirrored" if len(names) > 1 else "one_device"
    if strategy == "one_device":
        return Placement(names[0])
    return Mirrored(_mirrored_strategy(tuple(names)))


def _not_built(strategy: str) -> NotBuiltError:
    return NotBuiltError(
        f"strategy={strategy!r} is not built yet; write strategy="
        + " or ".join(f'"{name}"' for name in BUILT)
        + "."
    )


def _join(cluster: Cluster | None, devices: Any) -> Placement:
    """The placement of one task among the workers of a cluster."""
    if cluster is None:
        if is_cluster_of_one():
            log.info("multi_worker: the cluster has one worker, which trains alone")
            return make_placement("mirrored" if _gpus() > 1 else "one_device", devices)
        raise UserError(
            'strategy="multi_worker", but no cluster is described: set TF_CONFIG for each task, '
            "start the tasks with SLURM or as an indexed Kubernetes job, or try it on this "
            "machine: tfbig launch --workers=2 -- python script.py."
        )
    check_multi_worker(cluster)
    if devices is not None:
        raise UserError(
            f'devices={devices!r} with strategy="multi_worker": each worker uses all GPUs that it '
            "sees, or its CPU; leave devices out, and set CUDA_VISIBLE_DEVICES for each worker."
        )
    if cluster.task_type == "evaluator":
        raise NotBuiltError(
            "an evaluator task is built for clusters with ps only; leave it out, and evaluate with "
            "eval_input_fn."
        )
    return multi_worker(cluster.workers, cluster.index)


@functools.cache
def _mirrored_strategy(names: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """One strategy for each set of devices in a process.

    A second one would number its collective operations from the start again, and TensorFlow
    would take them for the first one's ("Shape mismatch in the collective instance").
    """
    if not os.environ.get("TF_CONFIG", "{}").strip():
        del os.environ["TF_CONFIG"]  # TensorFlow takes one that is empty for bad JSON
    return tf.distribute.MirroredStrategy(list(names))


def _adopt(strategy: tf.distribute.Strategy, devices: Any) -> Placement:
    if devices is not None:
        raise UserError(
            f"devices={devices!r} together with a {type(strategy).__name__}, which has devices "
            "of its own; leave devices out."
        )
    if type(strategy) is tf.distribute.MirroredStrategy:
        return (
            Mirrored(strategy)
            if strategy.num_replicas_in_sync > 1
            else Placement(strategy.extended.worker_devices[0])
        )
    if isinstance(strategy, tf.distribute.OneDeviceStrategy):
        return Placement(strategy.extended.worker_devices[0])
    if strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy():
        return Placement(_device_names(None, most=1)[0])
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise UserError(
            "a MultiWorkerMirroredStrategy has started its cluster before tfbig could look if all "
            'tasks are there and alike; pass strategy="multi_worker" instead.'
        )
    raise NotBuiltError(
        f"a {type(strategy).__name__} is not built yet; pass a tf.distribute.MirroredStrategy or "
        "OneDeviceStrategy, or a name."
    )


def _gpus() -> int:
    return len(tf.config.list_physical_devices("GPU"))


def _device_names(devices: Any, most: int | None) -> list[str]:
    """The names of the devices asked for, GPU:0 … or CPU:0 …, all of which exist."""
    gpus = tf.config.list_physical_devices("GPU")
    if devices is None:
        count = len(gpus) if most is None else min(len(gpus), most)
        return [f"GPU:{i}" for i in range(count)] or ["CPU:0"]
    if isinstance(devices, bool) or not isinstance(devices, (int, list, tuple, str)):
        raise UserError(
            f'devices={devices!r}: expected a number or device names such as ["GPU:0", "GPU:1"].'
        )
    if isinstance(devices, int):
        if devices < 1:
            raise UserError(
                f"devices={devices}: expected 1 or more, or devices=None for all there are."
            )
        if gpus and devices > len(gpus):
            shown = ", ".join(f"GPU:{i}" for i in range(len(gpus)))
            raise UserError(
                f"devices={devices}, but this machine shows {len(gpus)} GPU(s) ({shown}). Pass "
                f"devices={len(gpus)}, or devices=None for all of them."
            )
        names = [f"{'GPU' if gpus else 'CPU'}:{i}" for i in range(devices)]
    else:
        names = [_name(d) for d in ([devices] if isinstance(devices, str) else devices)]
    if not names or len(set(names)) != len(names):
        raise UserError(f"devices={devices!r}: name each device once, and at least one.")
    if most is not None and len(names) > most:
        raise UserError(
            f'devices={devices!r} with strategy="one_device", which uses one; write '
            'strategy="mirrored".'
        )
    _check_there(names, len(gpus))
    return names


def _name(device: Any) -> str:
    """A device's name as GPU:0 or CPU:0, which may be given as /device:GPU:0, gpu:0 …"""
    name = str(device).upper().removeprefix("/").removeprefix("DEVICE:")
    kind, _, number = name.partition(":")
    if kind not in ("CPU", "GPU") or not number.isdigit():
        raise UserError(f'devices: {device!r} is no device name; write "GPU:0" or "CPU:0".')
    return f"{kind}:{int(number)}"


def _check_there(names: list[str], gpus: int) -> None:
    cpus = 0
    for name in names:
        kind, _, number = name.partition(":")
        if kind == "GPU" and int(number) >= gpus:
            raise UserError(
                f"devices: {name!r} does not exist; this machine shows {gpus} GPU(s). Pass "
                "devices=None for all there are."
            )
        if kind == "CPU":
            cpus = max(cpus, int(number) + 1)
    if cpus > 1:
        _make_logical_cpus(cpus)


def _make_logical_cpus(count: int) -> None:
    """Splits the CPU into logical devices, which TensorFlow allows only before it starts."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:
        there = len(tf.config.list_logical_devices("CPU"))
        if there < count:
            raise UserError(
                f"{count} CPU devices were asked for, but TensorFlow has started with {there}, "
                "and that is fixed once it has. A model, a preset, a tensor, a training or an "
                "evaluation starts it. Write right after the imports: "
                'tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")'
                f"[0], [tf.config.LogicalDeviceConfiguration()] * {count})."
            ) from None
