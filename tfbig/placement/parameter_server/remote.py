"""Calls of Python functions in the processes of ps and workers, through TensorFlow's servers.

A task registers its functions under names that all tasks know; the chief calls them by an
operation that it places on that task, or within what a worker runs.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig import _private_api

HELLO, END, READ = "tfbig_hello", "tfbig_end", "tfbig_read"


def offer(name: str, function: Callable) -> None:
    """Lets other tasks call a function of this process, of NumPy arrays to such or a list."""
    _private_api.register_python_function(name, function)


def call(name: str, inputs: Sequence, dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """Calls what is offered under a name where the operation is placed; their shapes unknown."""
    return tf.raw_ops.PyFunc(input=list(inputs), token=name, Tout=list(dtypes))


def tell(device: str, name: str, value: Any) -> Any:
    """Sends a value that JSON can hold to a task's function, and returns its answer.

    Args:
        device: of the task, "/job:ps/task:0" say.
        name: of the function, which takes and returns bytes.
        value: for it.

    Raises:
        tf.errors.OpError: the task is not there, or its function has failed.
    """
    with tf.device(f"{device}/device:CPU:0"):
        (answer,) = call(name, [tf.constant(json.dumps(value))], [tf.string])
        return json.loads(answer.numpy())


def led_from_here(there: str, work: Callable[..., Sequence[tf.Operation]]) -> Callable[..., None]:
    """A function that runs operations of another task, and returns when they are done.

    They are parts of a function of this task. One that is sent to the other as a whole would hold
    up all else that this process sends there meanwhile, the steps of training too.

    Args:
        there: the other task's device.
        work: traces the operations, and returns those that have to be done.
    """
    here = tf.constant(0).device

    def led(*arguments):
        with tf.device(there):
            done = work(*arguments)
        with tf.device(here), tf.control_dependencies(done):
            return tf.constant(0)

    function = tf.function(led, autograph=False)
    return lambda *arguments: function(*arguments).numpy()  # waits for it
