"""Where work runs and where parameters live: the interface that the loop uses."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfbig.placement.control.peers import Peers
from tfbig.programs.updates import Updates


class Placement:
    """One device; the base of all other placements.

    Attributes:
        name: the strategy's name in api.md.
        num_replicas: how many parts a global batch is split into, on all workers together.
        local_replicas: how many of them are in this process.
        first_replica: the number of the first one in this process.
        peers: the tasks that train together, as this one sees them.
        compiles_whole_loop: whether XLA can compile the loop with its variables; otherwise only
            a pure function of their values.
        device: the device's name, or None for TensorFlow's choice.
    """

    name = "one_device"
    num_replicas = 1
    first_replica = 0
    compiles_whole_loop = True

    def __init__(self, device: str | None = None):
        self.device = device
        self.peers = Peers()

    @property
    def local_replicas(self) -> int:
        return self.num_replicas // self.peers.count

    def scope(self) -> contextlib.AbstractContextManager:
        """The scope in which variables are made and models are built."""
        return tf.device(self.device) if self.device else contextlib.nullcontext()

    def owns(self, variable: tf.Variable) -> bool:
        """Whether a variable was made in the scope."""
        return not isinstance(variable, tf.distribute.DistributedValues)

    def replica(self) -> Any:
        """The number of the replica that is being traced, 0 … num_replicas - 1."""
        return 0

    def run(self, fn: Callable, args: tuple) -> Any:
        """Runs `fn` on every replica, inside a trace; returns the first replica's result."""
        return fn(*args)

    def run_each(self, fn: Callable, args: tuple) -> list:
        """Like `run`, but returns the results of all replicas, in their order."""
        return [fn(*args)]

    def reduce_sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums tensors over the replicas, inside `run`; every replica gets the sums."""
        return tensors

    def scatter_sum(self, rows: tf.Tensor) -> tf.Tensor:
        """Sums [num_replicas, n] over the replicas, inside `run`; each gets its row of the sum."""
        return rows[0]

    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        """The rows of all replicas in their order, inside `run`; each has equally many."""
        return tensor

    def updates(self) -> Updates:
        """How an optimizer's updates are carried out."""
        return Updates()

    def check_owned(self, variables: Iterable[tf.Variable]) -> None:
        """Checks that variables are where this placement has them."""

    def describe(self) -> str:
        """The placement in a few words, for the log."""
        return f"one device ({self.device or 'default'})"


def _as_mirrored(next_creator: Callable, **kwargs) -> tf.Variable:
    """Makes variables whose replicas' values Keras would add up, those of metrics, as all others.

    The step gives every replica the whole sum, so adding them up would count it several times.
    """
    if kwargs.get("aggregation") == tf.VariableAggregation.SUM:
        kwargs["aggregation"] = tf.VariableAggregation.NONE
        kwargs["synchronization"] = tf.VariableSynchronization.ON_WRITE
    return next_creator(**kwargs)


class Mirrored(Placement):
    """Replicas on the devices of one machine, each with a copy of every variable.

    Args:
        strategy: a tf.distribute.MirroredStrategy.
    """

    name = "mirrored"
    compiles_whole_loop = False

    def __init__(self, strategy: tf.distribute.MirroredStrategy):
        super().__init__()
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with self.strategy.scope(), tf.variable_creator_scope(_as_mirrored):
            yield

    def owns(self, variable: tf.Variable) -> bool:
        return self.strategy.extended.variable_created_in_scope(variable)

    def replica(self) -> tf.Tensor:
        return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)

    def run(self, fn: Callable, args: tuple) -> Any:
        return self.run_each(fn, args)[0]

    def run_each(self, fn: Callable, args: tuple) -> list:
        results = self.strategy.run(fn, args)
        return [
            tf.nest.map_structure(
                lambda value: self.strategy.experimental_local_results(value)[replica],  # noqa: B023
                results,
            )
            for replica in range(self.local_replicas)
        ]

    def reduce_sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        context, sums = tf.distribute.get_replica_context(), list(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):  # which are packed together
            places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
            reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, [tensors[i] for i in places])
            for i, total in zip(places, reduced, strict=True):
                sums[i] = total
        return sums

    def scatter_sum(self, rows: tf.Tensor) -> tf.Tensor:
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, rows)
        # A row shares its tensor's memory, which a slot that is computed in its place would keep.
        return tf.raw_ops.DeepCopy(x=sums[int(tf.get_static_value(self.replica()))])

    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tensor, axis=0)

    def describe(self) -> str:
        devices = ", ".join(d.split("device:")[-1] for d in self.strategy.extended.worker_devices)
        return f"mirrored over {self.num_replicas} replicas ({devices})"
