"""One running task: its output, its end, and how it is made to end."""

import os
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from typing import IO

from tfbig.launch import groups
from tfbig.launch.keeper import Keeper
from tfbig.launch.lines import LinePrinter
from tfbig.launch.tasks import Task

_CHUNK = 2**16
_SECONDS_TO_VANISH = 5.0  # after SIGKILL, which the kernel may hold back: a disk that hangs


class TaskProcess:
    """A task that has been started.

    Args:
        task: which one.
        command: its words.
        environ: its variables.
        keeper: starts it.
        outputs: the streams for its standard output and standard error.
        seconds_to_save: from SIGTERM to SIGKILL.

    Attributes:
        code: None until it has ended; then the exit code, or minus the signal that killed it.
        told: whether it was told to end because of another task.
        gone: whether nothing of it is left: no process of its group, and no output.
    """

    def __init__(
        self,
        task: Task,
        command: Sequence[str],
        environ: Mapping[str, str],
        keeper: Keeper,
        outputs: tuple[IO, IO],
        seconds_to_save: float,
    ):
        self.task, self.told, self.gone = task, False, False
        self.code: int | None = None
        self._keeper, self._seconds_to_save = keeper, seconds_to_save
        self._signalled = False
        self._tell_at = self._kill_at = self._gone_at = float("inf")
        self._process = keeper.start(command, environ)
        self._printers = {
            pipe: LinePrinter(f"[{task.name}] ", stream)
            for pipe, stream in zip(
                (self._process.stdout, self._process.stderr), outputs, strict=True
            )
        }

    @property
    def lost_output(self) -> OSError | None:
        """The error with which one of the streams took no more, if it did."""
        return next((p.lost for p in self._printers.values() if p.lost), None)

    @property
    def exit_code(self) -> int:
        """The exit code as a shell tells it: 128 + n for signal n."""
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def was_stopped(self) -> bool:
        """Whether it ended because somebody asked it to, by SIGTERM or SIGINT."""
        return self.exit_code in (128 + signal.SIGTERM, 128 + signal.SIGINT)

    def ending(self) -> str:
        """How it ended, after its name: "was killed by SIGKILL"."""
        if self.code >= 0:
            return f"{self.task.name} ended with exit code {self.code}"
        return f"{self.task.name} was killed by {signal.Signals(-self.code).name}"

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Lets a selector tell when there is output; `read` is to be called with its key."""
        for pipe in self._printers:
            selector.register(pipe, selectors.EVENT_READ, self)

    def read(self, pipe: IO, selector: selectors.BaseSelector) -> None:
        """Passes on what is there."""
        data = os.read(pipe.fileno(), _CHUNK)
        if data:
            self._printers[pipe].feed(data)
        else:
            self._close(pipe, selector)

    def pass_on(self, number: int) -> None:
        """Sends the launcher's signal to the task, once. It may be called by a signal handler."""
        if self.code is None and not self._signalled:
            self._signalled = True
            self._process.send_signal(number)

    def end_within(self, seconds: float) -> None:
        """Gives the task time to end by itself; after it, it gets SIGTERM, and then SIGKILL."""
        self._tell_at = min(self._tell_at, time.monotonic() + seconds)

    def kill(self) -> None:
        """Kills the task and all that it has started. It may be called by a signal handler."""
        self._kill_at = 0.0
        if not self.gone:
            groups.send(self._process.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kills what is left of it; for a launcher that cannot go on."""
        if not self.gone:
            self.kill()
            self._process.wait()
            self._keeper.forget(self._process.pid)
            self.gone = True

    def look(self, selector: selectors.BaseSelector) -> bool:
        """Looks at the task, and takes the next step of its end; returns whether it ended now."""
        if self.gone:
            return False
        now = time.monotonic()
        if self.code is None:
            self.code = self._process.poll()
            if self.code is None:
                self._hurry(now)
                return False
            # What it has started and left behind ends too, and has time to.
            groups.send(self._process.pid, signal.SIGTERM)
            self._kill_at = min(self._kill_at, now + self._seconds_to_save)
            return True
        if not groups.is_left(self._process.pid) or now >= self._gone_at:
            self._finish(selector)
        elif now >= self._kill_at:
            groups.send(self._process.pid, signal.SIGKILL)
            self._gone_at = min(self._gone_at, now + _SECONDS_TO_VANISH)
        return False

    def _hurry(self, now: float) -> None:
        if now >= self._kill_at:
            groups.send(self._process.pid, signal.SIGKILL)
        elif now >= self._tell_at and not self.told:
            self.told = True
            self._process.send_signal(signal.SIGTERM)
            self._kill_at = now + self._seconds_to_save

    def _finish(self, selector: selectors.BaseSelector) -> None:
        """Passes on the rest of the output. Who holds a pipe still is not of the group."""
        self._keeper.forget(self._process.pid)
        self.gone = True
        for pipe in [pipe for pipe in self._printers if not pipe.closed]:
            os.set_blocking(pipe.fileno(), False)
            while not pipe.closed:
                try:
                    self.read(pipe, selector)
                except BlockingIOError:
                    self._close(pipe, selector)

    def _close(self, pipe: IO, selector: selectors.BaseSelector) -> None:
        selector.unregister(pipe)
        pipe.close()
        self._printers[pipe].close()
