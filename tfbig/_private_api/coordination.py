"""How MultiWorkerMirroredStrategy coordinates the tasks of a cluster."""

import contextlib
import re
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute.mirrored_strategy import MirroredExtended
from tensorflow.python.eager import context
from tensorflow.python.framework import auto_control_deps


def abort_collectives(message: str) -> None:
    """Makes all collective operations fail, those that wait for another task and later ones.

    Reason: if a task stops without closing its connections, the others wait forever.
    Guard: tests/cluster/test_lost_workers.py.
    """
    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, message)


def runtime_has_started() -> bool:
    """Whether TensorFlow's runtime has started in this process.

    Reason: a multi-worker strategy cannot be created afterwards. TensorFlow reports this in one
    task only, while the others wait for it forever.
    Guard: tests/cluster/test_bad_clusters.py.
    """
    return context.context()._context_handle is not None


def compute_initial_values_locally(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> None:
    """Makes every task compute the initial values of its variables itself.

    Reason: TensorFlow broadcasts each initial value from the first task with a collective, which
    hangs if the models of the tasks differ. tfbig compares the models first, and then broadcasts.
    Guard: tests/cluster/test_bad_clusters.py.
    """
    extended = strategy.extended
    extended._get_variable_creator_initial_value = (
        MirroredExtended._get_variable_creator_initial_value.__get__(extended)
    )


def disable_health_check(workers: int) -> None:
    """Prevents TensorFlow's coordination service from ending tasks that answer slowly.

    Call it before the strategy is created.

    Reason: the service ends a task that is suspended for 10 seconds, and its message does not
    identify the task clearly. The control channel of placement/control monitors the tasks instead.
    Guard: tests/cluster/test_lost_workers.py.

    Args:
        workers: the number of tasks in the job "worker".
    """
    jobs = [coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        enable_health_check=False,
        heartbeat_timeout_in_ms=24 * 3600 * 1000,
        coordinated_jobs=jobs,
    )


def parameter_server_count(strategy: tf.distribute.Strategy) -> int:
    """The number of parameter servers of a strategy, or 0 if it has none.

    Reason: the `cluster_resolver` of the strategy is None, so no public name has it.
    Guard: tests/private_api/test_servers.py.
    """
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return 0
    return strategy.extended._num_ps


@contextlib.contextmanager
def ordered_by_replica(wanted: Callable[[], bool]) -> Iterator[None]:
    """Operations with side effects, such as assertions, wait for those of their replica alone.

    Reason: TensorFlow runs those without a resource one after the other in a function. One replica
    would wait for the other, which may wait for the first in a collective operation.
    Guard: tests/private_api/test_operations.py.

    Args:
        wanted: called at the end of the block, in which a mirrored strategy runs a function:
            whether to do so.
    """
    graph = tf.compat.v1.get_default_graph()
    manager = None if tf.executing_eagerly() else getattr(graph, "experimental_acd_manager", None)
    first = 0 if manager is None else len(graph.get_operations())
    yield
    if manager is None or not wanted():
        return
    last: dict[str, tf.Operation] = {}
    for operation in graph.get_operations()[first:]:
        if (
            not auto_control_deps.op_is_stateful(operation)
            or any(auto_control_deps._get_resource_inputs(operation))
            or operation._control_flow_context is not None
        ):
            continue
        found = re.search(r"(?:^|/)replica_(\d+)/", operation.name)
        replica = found[1] if found else "0"
        if replica in last:
            operation._add_control_input(last[replica])
        last[replica] = operation
        manager.run_independently(operation)
