"""SIGTERM and SIGINT to the launcher, which are the tasks' too."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_EVERY = 0.1  # seconds
# `timeout` sends its signal to the process and then to its group, so that it comes twice.
_SECONDS_OF_AN_ECHO = 0.5


class Interrupts:
    """Remembers the signals that have come, inside its block.

    Elsewhere than in the main thread it handles none, as Python lets nobody else.

    Attributes:
        received: their numbers, in their order; one that comes twice at once counts once.
        listener: is called as soon as one has come, whatever the launcher is waiting for: a
            pipe that nobody reads, say.
    """

    def __init__(self):
        self.received: list[int] = []
        self.listener: Callable[[], None] | None = None
        self._saved = {}
        self._at = float("-inf")

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._saved = {number: signal.getsignal(number) for number in _SIGNALS}
            for number in _SIGNALS:
                signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._saved.items():
            signal.signal(number, handler)

    def pause(self, seconds: float) -> None:
        """Waits, but not longer than to the first signal."""
        deadline = time.monotonic() + seconds
        while not self.received and time.monotonic() < deadline:
            time.sleep(min(seconds, _LOOK_EVERY))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_echo = time.monotonic() - self._at < _SECONDS_OF_AN_ECHO
        self._at = time.monotonic()
        if is_echo and number == self.received[-1]:
            return
        self.received.append(number)
        if self.listener is not None:
            self.listener()
