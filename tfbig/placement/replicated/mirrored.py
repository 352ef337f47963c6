"""Replicas on the devices of one machine: MirroredStrategy."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.placement.placement import Placement
from tfbig.placement.replicated.collectives import Collectives, collectives_in_process


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
    # TensorFlow tells the operations of a loop apart by its name, which differs by replica.
    loops_with_collectives = False

    def __init__(self, strategy: tf.distribute.MirroredStrategy):
        super().__init__()
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync
        self._collectives = self._make_collectives()

    def _make_collectives(self) -> Collectives:
        return collectives_in_process(self.strategy.extended.worker_devices)

    @contextlib.contextmanager
    @override
    def scope(self) -> Iterator[None]:
        with self.strategy.scope(), tf.variable_creator_scope(_as_mirrored):
            yield

    @override
    def owns(self, variable: tf.Variable) -> bool:
        return self.strategy.extended.variable_created_in_scope(variable)

    @override
    def replica(self) -> tf.Tensor:
        return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)

    @override
    def run(self, fn: Callable, args: tuple) -> Any:
        return self.run_each(fn, args)[0]

    @override
    def run_each(self, fn: Callable, args: tuple) -> list:
        with self._collectives.traced():
            results = self.strategy.run(fn, args)
        return [
            tf.nest.map_structure(
                lambda value: self.strategy.experimental_local_results(value)[replica],  # noqa: B023
                results,
            )
            for replica in range(self.local_replicas)
        ]

    @override
    def reduce_sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        context, sums = tf.distribute.get_replica_context(), list(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):  # which are packed together
            places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
            reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, [tensors[i] for i in places])
            for i, total in zip(places, reduced, strict=True):
                sums[i] = total
        return sums

    @override
    def scatter_sum(self, rows: tf.Tensor) -> tf.Tensor:
        return self._collectives.scatter_sum(rows, self._local_replica())

    @override
    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        if self._collectives.gathers(tensor):
            return self._collectives.gather_rows(tensor, self._local_replica())
        return tf.distribute.get_replica_context().all_gather(tensor, axis=0)

    def _local_replica(self) -> int:
        """The number of the replica that is being traced among those of this process."""
        return int(tf.get_static_value(self.replica())) - self.first_replica

    @override
    def describe(self) -> str:
        devices = ", ".join(d.split("device:")[-1] for d in self.strategy.extended.worker_devices)
        return f"mirrored over {self.num_replicas} replicas ({devices})"
