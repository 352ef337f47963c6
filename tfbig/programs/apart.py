"""A thread without graph, replica or open scope, to make variables and traces in."""

import threading
from collections.abc import Callable
from typing import Any


def run_apart(function: Callable[[], Any]) -> Any:
    """Returns what a function returns when it is called in a thread of its own.

    TensorFlow's graphs, strategies and scopes are per thread, and so are Keras's name scopes and
    its dtype policy: there are none in a new one. What the function raises is raised here.
    """
    result: dict = {}

    def run():
        try:
            result["value"] = function()
        except BaseException as error:  # raised below, in the caller's thread
            result["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in result:
        raise result["error"]
    return result["value"]
