"""The launcher's side of `_keep.py`, which ends the tasks if the launcher is killed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

from tfbig.launch import _keep, _start


class Keeper:
    """A process that outlives this one until all tasks have ended.

    Example:

        with Keeper() as keeper:
            process = keeper.start(["python", "train.py"], os.environ)
            process.wait()
            keeper.forget(process.pid)
    """

    def __enter__(self) -> "Keeper":
        self._process = subprocess.Popen(
            _python(_keep.__file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # Ctrl-C, and what kills the launcher's group, is not for it
        )
        return self

    def start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen:
        """Starts a command in a process group of its own, which is ended with this process.

        It cannot read from a terminal; its output comes through pipes.
        """
        pipe = self._process.stdin.fileno()
        return subprocess.Popen(
            [*_python(_start.__file__), str(pipe), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environ,
            pass_fds=[pipe],
            start_new_session=True,
        )

    def forget(self, group: int) -> None:
        """Says that a process group has ended; its number may soon be another one's."""
        with contextlib.suppress(BrokenPipeError):  # the keeper was killed, and knows no group
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
    # Nothing but the standard library: neither site-packages nor the user's PYTHON variables.
    return [sys.executable, "-I", "-S", program]
