"""What MultiWorkerMirroredStrategy does by itself between the tasks of a cluster."""

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute.mirrored_strategy import MirroredExtended
from tensorflow.python.eager import context


def abort_collectives(message: str) -> None:
    """Makes collective operations that wait for another task fail, now and from now on.

    Reason: a task that has stopped without closing its connections leaves the others waiting for
    ever. Guard: tests/cluster/test_lost_workers.py.
    """
    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, message)


def has_started() -> bool:
    """Whether TensorFlow's runtime has started in this process.

    Reason: a strategy of several tasks cannot be made then, which TensorFlow says in one task
    alone, while the others wait for it for ever. Guard: tests/cluster/test_bad_clusters.py.
    """
    return context.context()._context_handle is not None


def make_own_initial_values(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> None:
    """Makes every task compute its variables' initial values itself.

    Reason: TensorFlow sends each variable's value from the first task to the others as it is
    made, one collective for each, which hangs if the tasks' models differ. tfbig compares the
    models first, and then the values. Guard: tests/cluster/test_bad_clusters.py.
    """
    extended = strategy.extended
    extended._get_variable_creator_initial_value = (
        MirroredExtended._get_variable_creator_initial_value.__get__(extended)
    )


def leave_health_to_others(workers: int) -> None:
    """Keeps TensorFlow's coordination service from ending tasks that are slow to answer.

    Reason: it gives a task that is stopped for 10 seconds up, and names it in no way that a
    person understands; placement/channel.py watches the tasks. To be called before the strategy
    is made. Guard: tests/cluster/test_lost_workers.py.

    Args:
        workers: how many tasks the job "worker" has.
    """
    jobs = [coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        enable_health_check=False,
        heartbeat_timeout_in_ms=24 * 3600 * 1000,
        coordinated_jobs=jobs,
    )


def number_of_servers(strategy: tf.distribute.Strategy) -> int:
    """How many tasks a strategy places variables on in turn; 0: it has no parameter servers.

    Reason: the strategy's `cluster_resolver` is None. Guard: test_number_of_servers.
    """
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return 0
    return strategy.extended._num_ps
