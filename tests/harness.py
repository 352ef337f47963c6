"""Runs Python functions in processes of their own: one tf.distribute strategy for each process.

As a program it is such a process: `python -m tests.harness <module:function> <folder>` calls
the function with the arguments in `<folder>/arguments.json` and leaves `<folder>/result.json`.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent


class ProcessFailed(AssertionError):
    """A process ended in an error or at its deadline; the message holds what it printed."""


def run_python(*words: str, timeout: float, **environment: str) -> str:
    """Runs `python <words>` in the repository's folder on CPUs; returns what it printed.

    Args:
        words: the command line.
        timeout: seconds; after them the process and its children are killed.
        environment: variables that are set besides the present ones.

    Raises:
        ProcessFailed: the exit code is not 0, or the time was up.
    """
    process = _start(words, subprocess.PIPE, environment)
    try:
        out, _ = process.communicate(timeout=timeout)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise ProcessFailed(f"killed after {timeout:g} s; it printed:\n{out}") from None
        raise
    if process.returncode:
        raise ProcessFailed(f"exit code {process.returncode}; it printed:\n{out}")
    return out


def _start(words: tuple[str, ...], out: Any, environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=_ROOT,
        stdout=out,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its own process group, so that its children die with it
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_NUM_INTRAOP_THREADS": "2",
            **environment,
        },
    )


def call_workers(
    function: Callable,
    folder: pathlib.Path,
    *arguments: Any,
    workers: int = 2,
    timeout: float,
    **environment: str,
) -> list:
    """Calls a module's function in the tasks of a cluster and returns the results of all.

    Args:
        function, arguments, timeout, environment: as in call.
        folder: for the processes' files; worker i has worker<i> in it, with its out.txt.
        workers: how many; TF_CONFIG tells each which it is.

    Raises:
        ProcessFailed: one of them failed, or they ran into their deadline; the others are killed.
    """
    ports = free_ports(workers)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    processes, folders = [], [folder / f"worker{i}" for i in range(workers)]
    for i, own in enumerate(folders):
        own.mkdir()
        (own / "arguments.json").write_text(json.dumps(arguments))
        task = {"type": "worker", "index": i}
        config = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
        name = f"{function.__module__}:{function.__qualname__}"
        words = ("-m", "tests.harness", name, str(own))
        with open(own / "out.txt", "w") as out:
            one_thread = {"TF_NUM_INTRAOP_THREADS": "1"}
            processes.append(_start(words, out, {**one_thread, **config, **environment}))
    try:
        _wait_for_all(processes, time.monotonic() + timeout)
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    codes = [process.returncode for process in processes]
    if any(codes):
        printed = "\n".join(
            f"worker {i} printed:\n{(own / 'out.txt').read_text()}" for i, own in enumerate(folders)
        )
        raise ProcessFailed(f"exit codes {codes}; {printed}")
    return [json.loads((own / "result.json").read_text()) for own in folders]


def _wait_for_all(processes: list[subprocess.Popen], deadline: float) -> None:
    """Returns when all have ended, or one has failed and the others had time to notice."""
    failed = False
    while any(process.poll() is None for process in processes):
        if not failed and any(process.returncode for process in processes):
            failed, deadline = True, min(deadline, time.monotonic() + 40)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback address on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def call(
    function: Callable, folder: pathlib.Path, *arguments: Any, timeout: float, **environment: str
) -> Any:
    """Calls a module's function in a process of its own and returns its result.

    Args:
        function: importable by its module and name.
        folder: for the process's files; an empty one.
        arguments: what JSON can hold, as is the result.
        timeout, environment: as in run_python.

    Raises:
        ProcessFailed: it raised an error, crashed, or ran into its deadline.
    """
    (folder / "arguments.json").write_text(json.dumps(arguments))
    name = f"{function.__module__}:{function.__qualname__}"
    run_python("-m", "tests.harness", name, str(folder), timeout=timeout, **environment)
    return json.loads((folder / "result.json").read_text())


def _main(name: str, folder: str) -> int:
    module, _, function = name.partition(":")
    arguments = json.loads(pathlib.Path(folder, "arguments.json").read_text())
    try:
        result = getattr(importlib.import_module(module), function)(*arguments)
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return 1
    pathlib.Path(folder, "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
