"""The tasks that train together, as one of them sees them; and a task alone."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfbig.errors import PeerLost


class Peers:
    """The tasks that train together, as one of them sees them; this class: a task alone.

    `gather`, `broadcast`, `broadcast_arrays`, `broadcast_files` and `barrier` are called by all
    tasks in the same order, each from one thread; no task returns before all have called.

    Example: `steps = peers.broadcast(steps)`: what the chief has decided.

    Attributes:
        index: this task's number; 0 is the chief.
        count: how many tasks there are.
    """

    index = 0
    count = 1

    @property
    def is_chief(self) -> bool:
        """Whether this task is the one that decides, saves and reports."""
        return self.index == 0

    def all_gather(self, value: Any) -> list:
        """Returns the values of all tasks, in the order of their index, to every task.

        Args:
            value: what JSON can hold; NaN and infinity too.
        """
        return [value]

    def broadcast(self, value: Any = None) -> Any:
        """Returns the chief's value, which JSON can hold; those of other tasks do not matter."""
        return value

    def broadcast_arrays(
        self, arrays: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the chief's arrays, of any dtype but object; other tasks pass None."""
        return dict(arrays or {})

    def broadcast_files(self, directory: str | None, wanted: bool, into: str) -> None:
        """Copies the files of one of the chief's directories to the tasks that want them.

        A file appears under its name only when all of them have come. Files of any size are sent
        in pieces.

        Args:
            directory: the chief's, which holds files alone; other tasks may pass None.
            wanted: whether this task wants them; the chief has them already.
            into: the directory to write them to, which is made where it is missing.
        """

    def barrier(self) -> None:
        """Returns when all tasks have called it."""

    def describe(self, index: int) -> str:
        """A task in a few words, for messages: "worker 1 at host:port"."""
        return "the chief" if index == 0 else f"worker {index}"

    def lost(self, within: float) -> PeerLost | None:
        """Waits up to `within` seconds for the verdict that another task is gone."""
        return None  # there is no other

    def on_lost(self, callback: Callable[[PeerLost], None]) -> None:
        """Has a function called, once and from another thread, when another task is gone."""

    def enforce(self, seconds: float = 15.0) -> None:
        """Ends this process when another task is gone and it has not left `seconds` later.

        It is for a main thread that waits for the lost task inside native code, for ever.
        """

    def leave(self, reason: str | None = None) -> None:
        """Ends in good order: the other tasks do not take it for a loss.

        Args:
            reason: the error, in a line, with which this task fails, for the others to say.
        """
