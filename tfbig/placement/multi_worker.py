"""Replicas on many machines, or in many processes of one: MultiWorkerMirroredStrategy."""

import atexit
import faulthandler
import functools
import logging
import os
import platform

import keras
import tensorflow as tf

import tfbig
from tfbig import _private_api
from tfbig.errors import PeerLost, UserError
from tfbig.placement.channel import Channel
from tfbig.placement.cluster import TIMEOUT_VARIABLE
from tfbig.placement.placement import Mirrored
from tfbig.placement.preflight import join

log = logging.getLogger("tfbig")

_DEFAULT_TIMEOUT = 300.0  # seconds in which all tasks have to be there
_STRATEGY_SECONDS = 45  # from then on; it takes them one, or a few where they start slowly


class MultiWorker(Mirrored):
    """Replicas in several processes, each with a copy of every variable.

    Args:
        strategy: a tf.distribute.MultiWorkerMirroredStrategy.
        peers: the other tasks.
    """

    name = "multi_worker"

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy, peers: Channel):
        super().__init__(strategy)
        self.peers = peers
        self.first_replica = peers.index * self.local_replicas

    def describe(self) -> str:
        each = "" if self.local_replicas == 1 else f", {self.local_replicas} replicas each"
        return f"{self.peers.count} workers{each}; this is {self.peers.describe(self.peers.index)}"


@functools.cache
def multi_worker(workers: tuple[str, ...], index: int) -> MultiWorker:
    """Joins a cluster, once in a process, and makes its strategy.

    Args:
        workers: "host:port" of every task, the chief first.
        index: this task's place among them.

    Raises:
        UserError: TensorFlow has started already, or the tasks do not go together.
        PeerLost: a task has not come in time.
    """
    channel = join(
        workers,
        index,
        {
            "tfbig": tfbig.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        wait_seconds=_timeout(),
    )
    if not channel.is_chief:
        # What the chief says need not be said by every worker.
        log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))
    channel.on_lost(_stop_collectives)
    channel.enforce()
    atexit.register(channel.leave)
    _check_not_started(channel)
    return MultiWorker(_strategy(workers, index), channel)


def _check_not_started(channel: Channel) -> None:
    """Checks that TensorFlow has started in no task, or none of them could make the strategy."""
    started = channel.gather(_private_api.has_started())
    if not any(started):
        return
    channel.leave()  # the others raise the same
    tasks = ", ".join(channel.describe(index) for index, is_one in enumerate(started) if is_one)
    raise UserError(
        f"TensorFlow has started before the cluster was joined (in {tasks}), and its collective "
        "operations can only be set up before; call train_distributed before any other TensorFlow "
        "operation (pass a function that builds the model, not a model)."
    )


def _strategy(workers: tuple[str, ...], index: int) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy of a task; it returns when all tasks make it."""
    _private_api.leave_health_to_others(len(workers))
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(workers)}),
        task_type="worker",
        task_id=index,
        rpc_layer="grpc",
    )
    # TensorFlow waits for the other tasks and holds Python's lock meanwhile, so that no other
    # thread can end this process if one of them dies now. The fault handler can.
    faulthandler.dump_traceback_later(_STRATEGY_SECONDS, exit=True, file=2)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    finally:
        faulthandler.cancel_dump_traceback_later()
    _private_api.make_own_initial_values(strategy)
    return strategy


def _stop_collectives(lost: PeerLost) -> None:
    _private_api.abort_collectives(str(lost))


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return _DEFAULT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(f"{TIMEOUT_VARIABLE}={text!r}: expected seconds above 0, for example 300.")
    return seconds
