"""Python functions that run in the process of another task, and control of the coordinator."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.core.protobuf.tensorflow_server_pb2 import ServerDef
from tensorflow.python.eager import context
from tensorflow.python.ops import script_ops

_SECONDS_TO_STOP = 60.0  # an attempt to connect takes a second or a few
_KEPT: dict[str, Callable] = {}  # TensorFlow's registry holds functions weakly


def register_python_function(token: str, function: Callable) -> None:
    """Makes tf.raw_ops.PyFunc with this token call a function of the process in which it runs.

    Reason: tf.numpy_function creates a token that only the tracing process knows, so it always
    runs there. With a known token, the operation calls the function that its own process has
    registered.
    Guard: tests/private_api/test_servers.py.

    Args:
        token: of the operation.
        function: takes and returns NumPy arrays, several of them in a list.
    """
    _KEPT[token] = function
    script_ops._py_funcs._funcs[token] = function


def wait_for_closures(
    coordinator: tf.distribute.coordinator.ClusterCoordinator, seconds: float
) -> bool:
    """Waits until all scheduled closures have run. Returns False after the timeout.

    Reason: `join()` waits forever, even if no worker is left.
    Guard: tests/cluster/test_parameter_server.py.

    Raises:
        tf.errors.OpError: the error of a closure.
    """
    return coordinator._cluster.closure_queue.wait(timeout=seconds)


def stop_coordinator(coordinator: tf.distribute.coordinator.ClusterCoordinator) -> None:
    """Ends the threads of a coordinator. Its strategy can create a new one afterwards.

    Reason: while a worker is lost, a thread keeps trying to connect to it. At the end of the
    process, or together with disconnect_from_cluster, this causes a segmentation fault.
    Guard: tests/cluster/test_server_kills.py.
    """
    cluster = coordinator._cluster
    cluster.stop()
    cluster.failure_handler._preemption_handler_thread.join(_SECONDS_TO_STOP)
    coordinator.strategy._cluster_coordinator = None


def disconnect_from_cluster() -> Callable[[], None]:
    """Removes all other tasks from the cluster of this process.

    Reason: TensorFlow sends each traced function to all known tasks, and logs long warnings if
    they have ended.
    Guard: tests/cluster/test_parameter_server.py.

    Returns:
        A function that reconnects to the tasks.
    """
    cluster = context.context().get_server_def()
    reduced = ServerDef()
    reduced.CopyFrom(cluster)
    del reduced.cluster.job[:]
    for job in cluster.cluster.job:
        if job.name == cluster.job_name:
            reduced.cluster.job.append(job)
    context.context().update_server_def(reduced)
    return lambda: context.context().update_server_def(cluster)
