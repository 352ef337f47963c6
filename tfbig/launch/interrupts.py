"""Interrupts: records SIGTERM and SIGINT, which the launcher forwards to the tasks."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.1
# `timeout` signals the process and then its group, so the signal arrives twice.
_DUPLICATE_SECONDS = 0.5


class Interrupts:
    """A context manager that records the signals received inside its block.

    Outside the main thread it does nothing, because Python allows signal handlers only there.

    Attributes:
        received: the numbers of the signals in order; a signal that arrives twice within half a
            second counts once.
        listener: called by the signal handler, even while the launcher is blocked, for example in
            a write to a full pipe; or None.
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
        """Sleeps for `seconds`, or until the first signal."""
        deadline = time.monotonic() + seconds
        while not self.received and time.monotonic() < deadline:
            time.sleep(min(seconds, _POLL_SECONDS))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_duplicate = time.monotonic() - self._at < _DUPLICATE_SECONDS
        self._at = time.monotonic()
        if is_duplicate and number == self.received[-1]:
            return
        self.received.append(number)
        if self.listener is not None:
            self.listener()
