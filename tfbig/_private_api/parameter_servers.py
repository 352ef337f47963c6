"""Python functions that are called in another task's process, and waiting for closures."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.core.protobuf.tensorflow_server_pb2 import ServerDef
from tensorflow.python.eager import context
from tensorflow.python.ops import script_ops

_SECONDS_TO_STOP = 60.0  # an attempt to connect takes a second or a few
_KEPT: dict[str, Callable] = {}  # TensorFlow's registry holds functions weakly


def register_python_function(token: str, function: Callable) -> None:
    """Has tf.raw_ops.PyFunc with this token call a function, where the operation runs.

    Reason: tf.numpy_function makes a token of its own, which only the process that has traced it
    knows, so it always runs there; with a token that is known beforehand, the operation calls
    what the process in which it runs has registered. Guard: test_register_python_function.

    Args:
        token: the operation's.
        function: takes and returns NumPy arrays, several in a list.
    """
    _KEPT[token] = function
    script_ops._py_funcs._funcs[token] = function


def wait_for_closures(
    coordinator: tf.distribute.coordinator.ClusterCoordinator, seconds: float
) -> bool:
    """Waits until all scheduled closures have run; False if they have not in time.

    Reason: `join()` waits for ever, also where no worker is left. Guard:
    tests/cluster/test_parameter_server.py.

    Raises:
        tf.errors.OpError: what a closure has failed with.
    """
    return coordinator._cluster.closure_queue.wait(timeout=seconds)


def stop_coordinator(coordinator: tf.distribute.coordinator.ClusterCoordinator) -> None:
    """Ends a coordinator's threads; its strategy makes another one when it is asked for.

    Reason: while a worker is gone, one of the threads tries to connect to it all the time; at the
    end of the process, or together with `disconnect`, that is a segmentation fault. Guard:
    tests/cluster/test_server_kills.py.
    """
    cluster = coordinator._cluster
    cluster.stop()
    cluster.failure_handler._preemption_handler_thread.join(_SECONDS_TO_STOP)
    coordinator.strategy._cluster_coordinator = None


def disconnect() -> Callable[[], None]:
    """Takes leave of all other tasks that this process was connected to by a strategy.

    Returns:
        What connects to them again.

    Reason: TensorFlow sends every function that is traced to all tasks that it knows, and says so
    at length if they have ended. Guard: tests/cluster/test_parameter_server.py, whose chief goes
    on after the others.
    """
    whole = context.context().get_server_def()
    alone = ServerDef()
    alone.CopyFrom(whole)
    del alone.cluster.job[:]
    for job in whole.cluster.job:
        if job.name == whole.job_name:
            alone.cluster.job.append(job)
    context.context().update_server_def(alone)
    return lambda: context.context().update_server_def(whole)
