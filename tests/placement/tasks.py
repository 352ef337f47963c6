"""Tasks of a cluster in separate processes, which a test can stop and kill."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests import nursery
from tests.harness import ProcessFailed, cores_for_a_cluster


class Task:
    """A function in its own process; its arguments and result are values that JSON can hold."""

    def __init__(self, function: Callable, folder: pathlib.Path, arguments: tuple):
        self._process = nursery.start(function, folder, arguments)
        self.pid = self._process.pid

    @property
    def out(self) -> str:
        return self._process.out

    @property
    def err(self) -> str:
        return self._process.err

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Waits until the process has printed a text."""
        until = time.monotonic() + timeout
        while text not in self.out:
            if self._process.code is not None or time.monotonic() > until:
                raise ProcessFailed(f"{text!r} is not in:\n{self.out}{self.err}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self._process.send(number)

    def ends(self, timeout: float = 60) -> int:
        """Waits for the process to end; returns its exit code."""
        if not self._process.ended(timeout):
            raise ProcessFailed(f"still there; it printed:\n{self.out}{self.err}")
        return self._process.code

    def result(self, timeout: float = 60) -> Any:
        """Waits for the process to end; returns the result of the function."""
        if code := self.ends(timeout):
            raise ProcessFailed(f"exit code {code}:\n{self.out}{self.err}")
        return self._process.result()


@contextlib.contextmanager
def tasks(folder: pathlib.Path) -> Iterator[Callable[..., Task]]:
    """Yields a function that starts tasks, `start(function, *arguments)`; kills them at the end."""
    started: list[Task] = []

    def start(function: Callable, *arguments: Any) -> Task:
        started.append(Task(function, folder / f"task{len(started)}", arguments))
        return started[-1]

    with cores_for_a_cluster():
        try:
            yield start
        finally:
            for task in started:
                task.send(signal.SIGKILL)
