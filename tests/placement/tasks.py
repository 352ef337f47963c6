"""Tasks of a cluster as processes of their own, which a test can stop and kill."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.harness import ProcessFailed

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def free_addresses(count: int) -> list[str]:
    """Addresses on loopback at which nobody listens."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{sock.getsockname()[1]}" for sock in made]


class Task:
    """A module's function in a process; its arguments and result are what JSON can hold."""

    def __init__(self, function: Callable, folder: pathlib.Path, arguments: tuple):
        folder.mkdir()
        (folder / "arguments.json").write_text(json.dumps(arguments))
        self._folder = folder
        with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
            name = f"{function.__module__}:{function.__qualname__}"
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness", name, str(folder)],
                cwd=_ROOT,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"},
            )

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Waits until the process has printed a text."""
        until = time.monotonic() + timeout
        while text not in self.out:
            if self.process.poll() is not None or time.monotonic() > until:
                raise ProcessFailed(f"{text!r} is not in:\n{self.out}{self.err}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def ends(self, timeout: float = 60) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"still there; it printed:\n{self.out}{self.err}") from None

    def result(self, timeout: float = 60) -> Any:
        """What the function has returned."""
        if self.ends(timeout):
            raise ProcessFailed(f"exit code {self.process.returncode}:\n{self.out}{self.err}")
        return json.loads((self._folder / "result.json").read_text())


@contextlib.contextmanager
def tasks(folder: pathlib.Path) -> Iterator[Callable[..., Task]]:
    """Gives a function that starts tasks, `start(function, *arguments)`; none outlives it."""
    started: list[Task] = []

    def start(function: Callable, *arguments: Any) -> Task:
        started.append(Task(function, folder / f"task{len(started)}", arguments))
        return started[-1]

    try:
        yield start
    finally:
        for task in started:
            if task.process.poll() is None:
                task.send(signal.SIGKILL)
                task.process.wait()
