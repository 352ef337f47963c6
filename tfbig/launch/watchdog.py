"""Watchdog: stops the tasks if the launcher is killed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

from tfbig.launch import _start_task, _watchdog


class Watchdog:
    """A process that outlives the launcher until all tasks have ended; see `_watchdog.py`.

    Example:

        with Watchdog() as watchdog:
            process = watchdog.start(["python", "train.py"], os.environ)
            process.wait()
            watchdog.forget(process.pid)
    """

    def __enter__(self) -> "Watchdog":
        self._process = subprocess.Popen(
            _python(_watchdog.__file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # so that signals to the launcher's group do not reach it
        )
        return self

    def start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen:
        """Starts a command in a new process group, which is stopped if this process dies.

        The command has no standard input; its output goes to pipes.

        Args:
            command: the program and its arguments.
            environ: the environment variables of the command.
        """
        pipe = self._process.stdin.fileno()
        return subprocess.Popen(
            [*_python(_start_task.__file__), str(pipe), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environ,
            pass_fds=[pipe],
            start_new_session=True,
        )

    def forget(self, group: int) -> None:
        """Reports that a process group has ended, because its id may be reused."""
        with contextlib.suppress(BrokenPipeError):  # the watchdog was killed
            os.write(self._process.stdin.fileno(), b"-%d\n" % group)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stdin.close()
        self._process.wait()


def _python(program: str) -> list[str]:
    # Use only the standard library, without site-packages and the user's PYTHON variables.
    return [sys.executable, "-I", "-S", program]
