"""TensorFlow's collective operations among replicas that trace the same program.

tf.distribute has no reduce-scatter, and its `all_gather` first asks all replicas for their sizes,
and copies and pads. These are the operations behind it, with shapes that are known.
"""

import collections
import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfbig import _private_api
from tfbig.programs.tracing import run_in_new_thread

# The strategies count their groups from 1.
_CLUSTER_GROUP = 1_000_003
_FIRST_GROUP = 1_000_004
_GATHERED = (tf.float32, tf.float16, tf.float64, tf.int32, tf.int64)  # by CollectiveGatherV2


class Collectives:
    """Collective operations among the replicas of a strategy.

    All replicas trace the same operations in the same order, so that they number them alike.

    Args:
        devices: of the replicas in this process.
        replicas: how many there are in all processes together.
        group: a number that no other group of devices of this process has.
    """

    def __init__(self, devices: Sequence[str], replicas: int, group: int):
        self._replicas, self._group = replicas, group
        self._devices = list(devices)
        self._instances: dict[int, int] = collections.defaultdict(int)  # by local replica
        # Operations that take no resource are run one after the other in a function, also those of
        # different replicas, which would wait for each other. Each replica has its own.
        self._tokens = run_in_new_thread(self._make_tokens)

    def _make_tokens(self) -> list[tf.Variable]:
        tokens = []
        for device in self._devices:
            with tf.device(device):
                tokens.append(tf.Variable(0.0, trainable=False, name="ordering_token"))
        return tokens

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        """Enter it where a strategy runs a function of all replicas."""
        before = self.align()
        with _private_api.ordered_by_replica(lambda: self.align() > before):
            yield

    def align(self) -> int:
        """Numbers the next operations alike in all replicas, also after a trace that has failed."""
        last = max(self._instances.values(), default=0)
        self._instances.update(dict.fromkeys(self._instances, last))
        return last

    def gathers(self, tensor: tf.Tensor) -> bool:
        """Whether `gather_rows` can gather a tensor: its shape is known, and its dtype possible."""
        dtype = tf.float16 if tensor.dtype == tf.bfloat16 else tensor.dtype
        return dtype in _GATHERED and tensor.shape.is_fully_defined()

    def gather_rows(self, tensor: tf.Tensor, local_replica: int) -> tf.Tensor:
        """The rows of all replicas in their order; each has a tensor of the same shape."""
        if tensor.dtype == tf.bfloat16:  # it is only copied
            as_half = self.gather_rows(tf.bitcast(tensor, tf.float16), local_replica)
            return tf.bitcast(as_half, tf.bfloat16)
        arguments = self._arguments(local_replica)
        gathered = tf.raw_ops.CollectiveGatherV2(input=tensor, **arguments)
        rows = tensor.shape[0] * self._replicas
        return tf.ensure_shape(gathered, [rows, *tensor.shape[1:]])

    def scatter_sum(self, rows: tf.Tensor, local_replica: int) -> tf.Tensor:
        """Sums [replicas, n] over the replicas; each gets its row of the sum.

        On CPUs each replica sends every other one its row: half of what an all-reduce sends. On
        GPUs it is NCCL's reduce-scatter.
        """
        arguments = self._arguments(local_replica)
        if "GPU" in self._devices[local_replica]:
            # NCCL gives each replica the same share of the first dimension.
            total = tf.raw_ops.CollectiveReduceScatterV2(
                input=rows, merge_op="Add", final_op="Id", communication_hint="nccl", **arguments
            )
            return tf.ensure_shape(total, [1, *rows.shape[1:]])[0]
        received = tf.raw_ops.CollectiveAllToAllV2(input=rows, **arguments)
        return tf.reduce_sum(tf.ensure_shape(received, rows.shape), axis=0)

    def _arguments(self, local_replica: int) -> dict[str, Any]:
        self._instances[local_replica] += 1
        return {
            "group_size": self._replicas,
            "group_key": self._group,
            "instance_key": self._instances[local_replica],
            "ordering_token": [self._tokens[local_replica].handle],
        }


_groups: Iterator[int] = itertools.count(_FIRST_GROUP)


@functools.cache
def collectives_in_process(devices: tuple[str, ...]) -> Collectives:
    """The operations among replicas of this process alone.

    There is one object for each set of devices, because TensorFlow remembers the shape of each
    operation of a group as long as the process lives.
    """
    return Collectives(devices, len(devices), next(_groups))


def collectives_of_cluster(devices: Sequence[str], replicas: int) -> Collectives:
    """The operations among the replicas of all processes; made once in a process."""
    return Collectives(devices, replicas, _CLUSTER_GROUP)
