"""Remote calls of Python functions in ps and workers, through TensorFlow's servers.

A task registers functions under names that all tasks know. The chief calls them by an operation
that it places on that task, or in a function that a worker runs.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig import _private_api

HELLO, END, READ = "tfbig_hello", "tfbig_end", "tfbig_read"


def offer(name: str, function: Callable) -> None:
    """Lets other tasks call a function of this process.

    Args:
        name: for the callers.
        function: from NumPy arrays to an array or a list of arrays.
    """
    _private_api.register_python_function(name, function)


def call(name: str, inputs: Sequence, dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """Calls the function of a name in the task where the operation is placed.

    Args:
        name: of the function.
        inputs: its arguments.
        dtypes: of its results.

    Returns:
        Tensors of unknown shapes.
    """
    return tf.raw_ops.PyFunc(input=list(inputs), token=name, Tout=list(dtypes))


def send(device: str, name: str, value: Any) -> Any:
    """Sends a value that JSON can hold to a task's function, and returns its answer.

    Args:
        device: of the task, for example "/job:ps/task:0".
        name: of the function, which takes and returns bytes.
        value: the argument.

    Raises:
        tf.errors.OpError: the task cannot be reached, or its function has failed.
    """
    with tf.device(f"{device}/device:CPU:0"):
        (answer,) = call(name, [tf.constant(json.dumps(value))], [tf.string])
        return json.loads(answer.numpy())


def run_remotely(
    remote_device: str, work: Callable[..., Sequence[tf.Operation]]
) -> Callable[..., None]:
    """Makes a function that runs operations on another task, and returns when they are done.

    The function belongs to this task, with its operations placed on the other. A function that is
    sent to the other task as a whole would block everything else that this process sends there,
    training steps too.

    Args:
        remote_device: of the other task.
        work: traces the operations, and returns those that must be done.
    """
    here = tf.constant(0).device

    def traced(*arguments):
        with tf.device(remote_device):
            done = work(*arguments)
        with tf.device(here), tf.control_dependencies(done):
            return tf.constant(0)

    function = tf.function(traced, autograph=False)
    return lambda *arguments: function(*arguments).numpy()  # waits for it
