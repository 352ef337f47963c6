"""SIGTERM and SIGINT: finish the step, save, leave. A second signal leaves at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """Remembers the signal that asked the run to stop.

    Attributes:
        signal: "SIGTERM", "SIGINT" or None.
    """

    def __init__(self):
        self.signal: str | None = None

    def _received(self, number: int, frame) -> None:
        del frame
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.signal = signal.Signals(number).name

    @contextlib.contextmanager
    def watching(self) -> Iterator["Preemption"]:
        """Handles both signals inside the block; elsewhere than in the main thread, neither."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        saved = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, self._received)
        try:
            yield self
        finally:
            for number, handler in saved.items():
                signal.signal(number, handler)
