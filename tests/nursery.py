"""Forks the processes of tests from one that has imported TensorFlow, which takes it seconds.

As a program it is that process: `python -m tests.nursery` reads a line of JSON for each process
to start, says its number, and leaves `<folder>/exit` when it has ended. The forked processes call
a function as `tests.harness` does; nothing of TensorFlow has been started in them.
"""

import contextlib
import functools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_ROOT = pathlib.Path(__file__).resolve().parent.parent


class Process:
    """A process of a test, in a group of its own; its output is in its folder.

    Attributes:
        pid: its number, and its group's.
    """

    def __init__(self, folder: pathlib.Path, pid: int):
        self._folder, self.pid = folder, pid

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """None while it runs; then its exit code, or minus the signal that killed it."""
        path = self._folder / "exit"
        return int(path.read_text()) if path.exists() else None

    def send(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def ended(self, timeout: float) -> bool:
        """Waits for its end, but not longer than so many seconds."""
        until = time.monotonic() + timeout
        while self.code is None and time.monotonic() < until:
            time.sleep(0.02)
        return self.code is not None

    def result(self) -> Any:
        """What the function has returned."""
        return json.loads((self._folder / "result.json").read_text())


def start(
    function: Callable, folder: pathlib.Path, arguments: Sequence[Any], **environment: str
) -> Process:
    """Starts a module's function in a process of its own; on CPUs, with one thread.

    Args:
        function: importable by its module and name.
        folder: for the process's files; made here.
        arguments: what JSON can hold.
        environment: variables that are set besides the present ones.
    """
    folder.mkdir(parents=True)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    for name in ("out", "err"):  # before the process comes to it
        (folder / name).touch()
    order = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "folder": str(folder),
        "environment": environment,
    }
    nursery = _nursery()
    nursery.stdin.write(f"{json.dumps(order)}\n")
    nursery.stdin.flush()
    return Process(folder, int(nursery.stdout.readline()))


@functools.cache
def _nursery() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.nursery"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,  # whose end, with that of the tests, is the end of all
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        },
    )


def _serve() -> None:
    """Starts processes until the input ends; then kills those that are left."""
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    import tests.harness
    import tfbig.api.training
    import tfbig.api.using  # noqa: F401

    running: dict[int, pathlib.Path] = {}
    buffer = b""
    while True:
        if select.select([0], [], [], 0.03)[0]:
            data = os.read(0, 2**16)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                folder = pathlib.Path(order["folder"])
                pid = os.fork()
                if not pid:
                    _become(folder, order["environment"])
                    sys.exit(tests.harness.main(order["function"], str(folder)))
                running[pid] = folder
                print(pid, flush=True)
        _collect(running)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _become(folder: pathlib.Path, environment: dict[str, str]) -> None:
    os.setsid()
    for number, path, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, folder / "out", os.O_WRONLY | os.O_CREAT),
        (2, folder / "err", os.O_WRONLY | os.O_CREAT),
    ):
        descriptor = os.open(path, how)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(environment)


def _collect(running: dict[int, pathlib.Path]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        folder = running.pop(pid)
        (folder / ".exit").write_text(str(os.waitstatus_to_exitcode(status)))
        (folder / ".exit").rename(folder / "exit")


def _main() -> NoReturn:
    _serve()
    sys.exit(0)


if __name__ == "__main__":
    _main()
