"""Runs the installed command as a user does."""

import os
import pathlib
import signal
import sysconfig
import tempfile
import time

import pytest

from tests import nursery

_PROGRAM = os.path.join(sysconfig.get_path("scripts"), "tfbig")


class Command:
    """The command `tfbig`, run in a folder.

    Its script runs in a process that has imported TensorFlow already, or where `cold` is true in
    one that is started as a shell starts it.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def start(self, *words: str, cold: bool = False) -> nursery.Process:
        files = pathlib.Path(tempfile.mkdtemp(prefix=".process-", dir=self.folder), "files")
        begin = nursery.cold_python if cold else nursery.python
        return begin([_PROGRAM, *words], files, self.folder)

    def __call__(self, *words: str, timeout: float = 120, cold: bool = False) -> "Outcome":
        return self.finish(self.start(*words, cold=cold), timeout)

    def wait_for(self, process: nursery.Process, beginning: str, timeout: float = 120) -> None:
        """Waits for a line on standard output with this beginning."""
        until = time.monotonic() + timeout
        while not any(line.startswith(beginning) for line in process.out.splitlines()):
            running = process.code is None and time.monotonic() < until
            assert running, process.out + process.err
            time.sleep(0.02)

    def finish(self, process: nursery.Process, timeout: float = 120) -> "Outcome":
        ended = process.ended(timeout)
        process.send(signal.SIGKILL)
        assert ended, f"killed after {timeout:g} s; it printed:\n{process.out}{process.err}"
        return Outcome(process.code, process.out, process.err)


class Outcome:
    """What a command left: its exit code, and its lines on both streams."""

    def __init__(self, code: int, out: str, err: str):
        self.code = code
        self.out = out.splitlines()
        self.err = err.splitlines()

    def __repr__(self) -> str:
        return "\n".join([f"exit {self.code}", *self.out, "stderr:", *self.err])


@pytest.fixture
def command(tmp_path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def command_in():
    return Command
