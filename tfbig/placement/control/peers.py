"""The interface through which the tasks of one training exchange values."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfbig.errors import PeerLost


class Peers:
    """The tasks that train together; this class is the implementation for a single task.

    `all_gather`, `broadcast`, `broadcast_arrays`, `broadcast_files` and `barrier` are collective:
    all tasks call them in the same order, each from one thread, and no call returns before every
    task has made it.

    Example: `steps = peers.broadcast(steps)` gives every task the chief's value.

    Attributes:
        index: the index of this task; 0 is the chief.
        count: the number of tasks.
        alone: whether this task acts for itself now, as the chief does for callbacks.
    """

    index = 0
    count = 1
    alone = False

    @property
    def is_chief(self) -> bool:
        """Whether this task is the one that decides, saves and reports."""
        return self.index == 0

    def all_gather(self, value: Any) -> list:
        """Returns the values of all tasks, in the order of their indices, to every task.

        Args:
            value: a value that JSON can represent; NaN and infinity are allowed.
        """
        return [value]

    def broadcast(self, value: Any = None) -> Any:
        """Returns the chief's value, which JSON can represent; other tasks' values are ignored."""
        return value

    def broadcast_arrays(
        self, arrays: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the chief's arrays, of any dtype but object; other tasks pass None."""
        return dict(arrays or {})

    def broadcast_files(self, directory: str | None, wanted: bool, destination: str) -> None:
        """Copies the files of one of the chief's directories to the tasks that want them.

        The files appear in the destination only after all of them have arrived. Files of any size
        are sent in chunks.

        Args:
            directory: the chief's directory, which contains only files; other tasks may pass None.
            wanted: whether this task wants the files; the chief always has them already.
            destination: the directory to write them to; it is created if it does not exist.
        """

    def barrier(self) -> None:
        """Waits until all tasks have called it."""

    def describe(self, index: int) -> str:
        """Describes a task for messages: "worker 1 at host:port"."""
        return "the chief" if index == 0 else f"worker {index}"

    def wait_for_loss(self, timeout: float) -> PeerLost | None:
        """Waits up to `timeout` seconds for another task to be lost; returns the error or None."""
        return None  # a single task has no peers

    def on_lost(self, callback: Callable[[PeerLost], None]) -> None:
        """Registers a function to be called once, from another thread, when a task is lost."""

    def exit_on_loss(self, seconds: float = 15.0) -> None:
        """Exits this process `seconds` after another task is lost, unless it disconnects first.

        This is for a main thread that would wait forever for the lost task in native code.
        """

    def disconnect(self, reason: str | None = None) -> None:
        """Disconnects from the other tasks, which then do not consider this one lost.

        Args:
            reason: one line about the error that stops this task; None: it finished normally. The
                other tasks raise `PeerLost` with this reason.
        """
