"""Replicas on many machines, or in many processes of one: MultiWorkerMirroredStrategy."""

import atexit
import faulthandler
import functools
import logging
import platform
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

import tfbig
from tfbig import _private_api
from tfbig.clusters.find import cluster_timeout
from tfbig.errors import PeerLost, UserError
from tfbig.placement.control.channel import Channel
from tfbig.placement.control.preflight import join
from tfbig.placement.replicated.collectives import Collectives, collectives_of_cluster
from tfbig.placement.replicated.mirrored import Mirrored

log = logging.getLogger("tfbig")

_PACK_BYTES = 16 * 2**20
_STRATEGY_SECONDS = 45  # from then on; it takes them one, or a few where they start slowly


class MultiWorker(Mirrored):
    """Replicas in several processes, each with a copy of every variable.

    Args:
        strategy: a tf.distribute.MultiWorkerMirroredStrategy.
        peers: the other tasks.
    """

    name = "multi_worker"
    runs_steps_again = False

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy, peers: Channel):
        super().__init__(strategy)
        self.peers = peers
        self.loops_with_collectives = self.local_replicas == 1
        self.first_replica = peers.index * self.local_replicas

    def reduce_sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums tensors over all replicas, one pack after the other.

        A collective operation copies its pack several times (to a buffer, into messages, out of
        messages), so packs that are sent at the same time cost memory. The last tensors come first:
        these are the gradients that the backward pass computes first.
        """
        context, sums = tf.distribute.get_replica_context(), list(tensors)
        before: list[tf.Tensor] = []
        for places in packs(tensors, _PACK_BYTES):
            with tf.control_dependencies(before):
                ready = [tf.identity(tensors[i]) for i in places]
            before = context.all_reduce(tf.distribute.ReduceOp.SUM, ready)
            for i, total in zip(places, before, strict=True):
                sums[i] = total
        return sums

    @override
    def _make_collectives(self) -> Collectives:
        return collectives_of_cluster(self.strategy.extended.worker_devices, self.num_replicas)

    @override
    def describe(self) -> str:
        each = "" if self.local_replicas == 1 else f", {self.local_replicas} replicas each"
        return f"{self.peers.count} workers{each}; this is {self.peers.describe(self.peers.index)}"


def packs(tensors: Sequence[Any], most: int) -> list[list[int]]:
    """The indices of tensors that are reduced together, the last first; a pack has one dtype.

    Args:
        tensors: with shape and dtype.
        most: bytes of a pack; a larger tensor is a pack by itself.
    """
    found: list[list[int]] = []
    open_packs: dict[Any, tuple[list[int], int]] = {}
    for i in reversed(range(len(tensors))):
        tensor = tensors[i]
        size = (tensor.shape.num_elements() or 1) * tensor.dtype.size
        places, used = open_packs.get(tensor.dtype, ([], 0))
        if places and used + size <= most:
            places.append(i)
        else:
            places, used = [i], 0
            found.append(places)
        open_packs[tensor.dtype] = (places, used + size)
    return found


@functools.cache
def multi_worker(workers: tuple[str, ...], index: int) -> MultiWorker:
    """Joins a cluster, once in a process, and makes its strategy.

    Args:
        workers: "host:port" of every task, the chief first.
        index: of this task among them.

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
        wait_seconds=cluster_timeout(),
    )
    if not channel.is_chief:
        # What the chief says need not be said by every worker.
        log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))
    channel.on_lost(_stop_collectives)
    channel.exit_on_loss()
    atexit.register(channel.disconnect)
    _check_not_started(channel)
    return MultiWorker(_strategy(workers, index), channel)


def _check_not_started(channel: Channel) -> None:
    """Checks that TensorFlow has started in no task, or none of them could make the strategy."""
    started = channel.all_gather(_private_api.runtime_has_started())
    if not any(started):
        return
    channel.disconnect()  # the others raise the same
    tasks = ", ".join(channel.describe(index) for index, is_one in enumerate(started) if is_one)
    raise UserError(
        f"TensorFlow has started before the cluster was joined (in {tasks}), and its collective "
        "operations can only be set up before; call train_distributed before any other TensorFlow "
        "operation (pass a function that builds the model, not a model)."
    )


def _strategy(workers: tuple[str, ...], index: int) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy of a task; it returns when all tasks make it."""
    _private_api.disable_health_check(len(workers))
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(workers)}),
        task_type="worker",
        task_id=index,
        rpc_layer="grpc",
    )
    # TensorFlow waits for the other tasks while it holds Python's lock, so that no other
    # thread can end this process if one of them dies now. The fault handler can.
    faulthandler.dump_traceback_later(_STRATEGY_SECONDS, exit=True, file=2)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    finally:
        faulthandler.cancel_dump_traceback_later()
    _private_api.compute_initial_values_locally(strategy)
    return strategy


def _stop_collectives(lost: PeerLost) -> None:
    _private_api.abort_collectives(str(lost))
