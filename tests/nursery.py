"""Forks the processes of tests from one that has imported TensorFlow, which takes it seconds.

As a program it is that process: `python -m tests.nursery` reads a line of JSON for each process
to start, writes its number, and leaves `<folder>/exit` when it has ended. Nothing of TensorFlow
has been started in the forked processes, so that they choose devices and threads themselves. What
a library reads from the environment as it is imported has to be set in a real start:
`tests.harness.run_python`.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


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
        """Sends a signal to it and its children, if it still runs."""
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


class ColdProcess(Process):
    """One that was not forked but started."""

    def __init__(self, folder: pathlib.Path, process: subprocess.Popen):
        super().__init__(folder, process.pid)
        self._process = process

    @property
    def code(self) -> int | None:
        return self._process.poll()


def start(
    function: Callable,
    folder: pathlib.Path,
    arguments: Sequence[Any],
    *,
    one_thread: bool = True,
    **environment: str,
) -> Process:
    """Starts a module's function in a process of its own, on CPUs.

    Args:
        function: importable by its module and name.
        folder: for the process's files; made here.
        arguments: what JSON can hold.
        one_thread: whether each operation has one thread and one runs at a time, as suits a task
            of a cluster on a small machine.
        environment: variables that are set besides the present ones.
    """
    folder.mkdir(parents=True)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    program = {"function": f"{function.__module__}:{function.__qualname__}"}
    threads = _ONE_THREAD if one_thread else {}
    return _fork(program, folder, _ROOT, threads | environment)


def python(
    words: Sequence[str], folder: pathlib.Path, cwd: pathlib.Path, **environment: str
) -> Process:
    """Starts what `python <words>` starts: a script, `-m <module>` or `-c <code>`; on CPUs.

    Args:
        words: the command line.
        folder: for the process's files; made here.
        cwd: the folder that the process works in.
        environment: variables that are set besides the present ones.
    """
    folder.mkdir(parents=True)
    return _fork({"words": list(words)}, folder, cwd, environment)


def cold_python(
    words: Sequence[str], folder: pathlib.Path, cwd: pathlib.Path, **environment: str
) -> ColdProcess:
    """Starts `python <words>` as a shell does, where the start is what is tested.

    Args: as those of `python`.
    """
    folder.mkdir(parents=True)
    with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "-1",
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
        )
    return ColdProcess(folder, process)


def _fork(
    program: dict[str, Any], folder: pathlib.Path, cwd: pathlib.Path, environment: dict[str, str]
) -> Process:
    for name in ("out", "err"):  # before the process comes to it
        (folder / name).touch()
    order = {
        **program,
        "folder": str(folder.resolve()),
        "cwd": str(cwd),
        "environment": {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
    }
    nursery = _nursery()
    nursery.stdin.write(f"{json.dumps(order)}\n")
    nursery.stdin.flush()
    return Process(folder, int(nursery.stdout.readline()))


@functools.cache
def _nursery() -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.nursery"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,  # whose end, with that of the tests, is the end of all
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1", **_ONE_THREAD},
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait()


def _serve() -> int:
    """Starts processes until the input ends; then kills those that are left.

    Returns:
        The exit code: of the process that has been started, in which this returns too.
    """
    first = dict(os.environ)
    import tfbig  # noqa: I001  before the others, which it makes quiet
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    import tests.harness
    import tests.iterators
    import tests.spare
    import tfbig.api.training
    import tfbig.api.using  # noqa: F401

    tests.harness.keep_to_own_ports()
    tests.iterators.end_at_once()
    gc.collect()
    gc.freeze()  # or each process looks through all of TensorFlow's objects as it ends: a second
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
                    _become(folder, order, first)
                    tests.spare.prepare()
                    if "words" in order:
                        return _run(order["words"])
                    return tests.harness.main(order["function"], str(folder))
                running[pid] = folder
                print(pid, flush=True)
        _collect(running)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return 0


def _become(folder: pathlib.Path, order: dict[str, Any], first: dict[str, str]) -> None:
    """Gives a forked process its streams, folder and environment; `first` was the nursery's."""
    os.setsid()
    for number, path, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, folder / "out", os.O_WRONLY | os.O_APPEND),
        (2, folder / "err", os.O_WRONLY | os.O_APPEND),
    ):
        descriptor = os.open(path, how)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order["cwd"])
    for name in first.keys() - order["environment"].keys():
        os.environ.pop(name, None)
    os.environ.update(order["environment"])


def _run(words: Sequence[str]) -> int:
    """Runs what Python would for this command line; returns the exit code."""
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    elif words[0] == "-m":
        sys.argv, sys.path[0] = [words[1], *words[2:]], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(words), os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")
    return 0


def _collect(running: dict[int, pathlib.Path]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        folder = running.pop(pid)
        (folder / ".exit").write_text(str(os.waitstatus_to_exitcode(status)))
        (folder / ".exit").rename(folder / "exit")


if __name__ == "__main__":
    sys.exit(_serve())
