"""Replicas on many machines, or in many processes of one: MultiWorkerMirroredStrategy."""

import atexit
import collections
import faulthandler
import functools
import itertools
import logging
import platform
from collections.abc import Iterator, Sequence
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
from tfbig.placement.replicated.mirrored import Mirrored

log = logging.getLogger("tfbig")

_PACK_BYTES = 16 * 2**20
_GROUP = 1_000_003  # of our own collectives; the strategy counts its groups from 1
_GATHERED = (tf.float32, tf.float16, tf.float64, tf.int32, tf.int64)  # by CollectiveGatherV2
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
        self.first_replica = peers.index * self.local_replicas
        # All replicas trace the same collectives in the same order, so that they count alike.
        self._instances: dict[int, Iterator[int]] = collections.defaultdict(itertools.count)

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

    def scatter_sum(self, rows: tf.Tensor) -> tf.Tensor:
        """Each replica sends every other one its row: half of what an all-reduce sends."""
        received = tf.raw_ops.CollectiveAllToAllV2(input=rows, **self._collective())
        return tf.reduce_sum(tf.ensure_shape(received, rows.shape), axis=0)

    @override
    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        if tensor.dtype == tf.bfloat16:  # it is only copied
            return tf.bitcast(self.gather_rows(tf.bitcast(tensor, tf.float16)), tf.bfloat16)
        if tensor.dtype not in _GATHERED or not tensor.shape.is_fully_defined():
            return super().gather_rows(tensor)  # an operation has one shape in all runs
        # The strategy would first ask all replicas how many rows they have, and copy and pad them.
        gathered = tf.raw_ops.CollectiveGatherV2(input=tensor, **self._collective())
        rows = tensor.shape[0] * self.num_replicas
        return tf.ensure_shape(gathered, [rows, *tensor.shape[1:]])

    def _collective(self) -> dict[str, Any]:
        """The arguments of a collective operation that all replicas trace together."""
        replica = int(tf.get_static_value(self.replica()))
        return {
            "group_size": self.num_replicas,
            "group_key": _GROUP,
            "instance_key": next(self._instances[replica]),
            "ordering_token": [],
        }

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
