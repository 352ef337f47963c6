"""TaskProcess: the process of a task, with its output and how it is stopped."""

import os
import pathlib
import selectors
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from tfbig.launch.lines import LinePrinter
from tfbig.launch.tasks import Task
from tfbig.launch.watchdog import Watchdog

_CHUNK = 2**16
_PROC = pathlib.Path("/proc")
_SECONDS_AFTER_SIGKILL = 5.0  # the kernel may delay it, for example while a disk hangs


class TaskProcess:
    """Starts the process of a task and follows it until its process group has ended.

    Args:
        task: the task.
        command: the program and its arguments.
        environ: the environment variables.
        watchdog: starts the process.
        outputs: the streams for standard output and standard error of the task.
        seconds_to_save: the time from SIGTERM to SIGKILL, in seconds.

    Attributes:
        code: the exit code, or minus the number of the signal that killed the process; None while
            it runs.
        terminated: whether the launcher sent SIGTERM because of another task.
        gone: whether the process group has ended and all output was printed.
    """

    def __init__(
        self,
        task: Task,
        command: Sequence[str],
        environ: Mapping[str, str],
        watchdog: Watchdog,
        outputs: tuple[IO, IO],
        seconds_to_save: float,
    ):
        self.task, self.terminated, self.gone = task, False, False
        self.code: int | None = None
        self._watchdog, self._seconds_to_save = watchdog, seconds_to_save
        self._was_signalled = False
        self._terminate_at = self._kill_at = self._gone_at = float("inf")
        self._process = watchdog.start(command, environ)
        self._printers = {
            pipe: LinePrinter(f"[{task.name}] ", stream)
            for pipe, stream in zip(
                (self._process.stdout, self._process.stderr), outputs, strict=True
            )
        }

    @property
    def output_error(self) -> OSError | None:
        """The first error of a write to one of the streams; None if there was none."""
        return next((p.error for p in self._printers.values() if p.error), None)

    @property
    def exit_code(self) -> int:
        """The exit code as in a shell: 128 + n for signal n."""
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def was_stopped(self) -> bool:
        """Whether SIGTERM or SIGINT ended the process."""
        return self.exit_code in (128 + signal.SIGTERM, 128 + signal.SIGINT)

    def ending(self) -> str:
        """Describes how the task ended: "worker 1 was killed by SIGKILL"."""
        if self.code >= 0:
            return f"{self.task.name} ended with exit code {self.code}"
        return f"{self.task.name} was killed by {signal.Signals(-self.code).name}"

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Registers the output pipes with a selector; call `read` when one is ready."""
        for pipe in self._printers:
            selector.register(pipe, selectors.EVENT_READ, self)

    def read(self, pipe: IO, selector: selectors.BaseSelector) -> None:
        """Prints the available output of a pipe."""
        data = os.read(pipe.fileno(), _CHUNK)
        if data:
            self._printers[pipe].feed(data)
        else:
            self._close(pipe, selector)

    def forward_signal(self, number: int) -> None:
        """Sends a signal to the task, once. It may be called from a signal handler."""
        if self.code is None and not self._was_signalled:
            self._was_signalled = True
            self._process.send_signal(number)

    def stop_after(self, seconds: float) -> None:
        """Schedules SIGTERM after `seconds`, followed by SIGKILL if the task does not exit."""
        self._terminate_at = min(self._terminate_at, time.monotonic() + seconds)

    def kill(self) -> None:
        """Kills the process group of the task. It may be called from a signal handler."""
        self._kill_at = 0.0
        if not self.gone:
            signal_group(self._process.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kills the process group and waits for it, when the launcher itself fails."""
        if not self.gone:
            self.kill()
            self._process.wait()
            self._watchdog.forget(self._process.pid)
            self.gone = True

    def poll(self, selector: selectors.BaseSelector) -> bool:
        """Checks the process and stops it if that is due; returns whether it has just ended."""
        if self.gone:
            return False
        now = time.monotonic()
        if self.code is None:
            self.code = self._process.poll()
            if self.code is None:
                self._stop_if_due(now)
                return False
            # Stop the processes that it started as well, and give them time to exit.
            signal_group(self._process.pid, signal.SIGTERM)
            self._kill_at = min(self._kill_at, now + self._seconds_to_save)
            return True
        if not group_is_running(self._process.pid) or now >= self._gone_at:
            self._finish(selector)
        elif now >= self._kill_at:
            signal_group(self._process.pid, signal.SIGKILL)
            self._gone_at = min(self._gone_at, now + _SECONDS_AFTER_SIGKILL)
        return False

    def _stop_if_due(self, now: float) -> None:
        if now >= self._kill_at:
            signal_group(self._process.pid, signal.SIGKILL)
        elif now >= self._terminate_at and not self.terminated:
            self.terminated = True
            self._process.send_signal(signal.SIGTERM)
            self._kill_at = now + self._seconds_to_save

    def _finish(self, selector: selectors.BaseSelector) -> None:
        """Prints the rest of the output. Processes outside the group may keep the pipe open."""
        self._watchdog.forget(self._process.pid)
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


def signal_group(group: int, number: int) -> bool:
    """Sends a signal to all processes of a group; returns False if there are none."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # another user's processes: after sudo
        return False
    return True


def group_is_running(group: int) -> bool:
    """Returns whether a process of the group is running.

    Zombies are not counted where /proc exists, because in a container init may never reap them.
    """
    if not signal_group(group, 0):
        return False
    if not (_PROC / "self" / "stat").exists():
        return True
    return any(state not in "ZX" for other, state in _process_states() if other == group)


def _process_states() -> Iterator[tuple[int, str]]:
    """Yields the group and the state of every process."""
    for path in _PROC.iterdir():
        if path.name.isdigit():
            try:
                stat = (path / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):  # the process has ended
                continue
            # The second field is the name of the program, which may contain parentheses.
            state, _, group = stat.rpartition(")")[2].split()[:3]
            yield int(group), state
