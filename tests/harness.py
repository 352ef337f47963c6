"""Runs Python functions in processes of their own: one tf.distribute strategy for each process."""

import contextlib
import fcntl
import functools
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests import nursery
from tfbig.launch import ports

_clusters = 0  # that this process has
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
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
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


def call(
    function: Callable, folder: pathlib.Path, *arguments: Any, timeout: float, **environment: str
) -> Any:
    """Calls a module's function in a process of its own, with two threads; returns its result.

    Args:
        function: importable by its module and name.
        folder: for the process's files, in a new folder there.
        arguments: what JSON can hold, as is the result.
        timeout: seconds; after them the process and its children are killed.
        environment: variables that are set besides the present ones.

    Raises:
        ProcessFailed: it raised an error, crashed, or ran into its deadline.
    """
    files = pathlib.Path(tempfile.mkdtemp(prefix="call-", dir=folder)) / "process"
    environment = {"TF_NUM_INTRAOP_THREADS": "2", **environment}
    process = nursery.start(function, files, arguments, one_thread=False, **environment)
    return finished(process, timeout).result()


def finished(process: nursery.Process, timeout: float) -> nursery.Process:
    """Waits for the end of a process of the nursery.

    Args:
        process: a process.
        timeout: seconds; after them the process and its children are killed.

    Raises:
        ProcessFailed: its exit code is not 0, or the time was up.
    """
    try:
        ended = process.ended(timeout)
    finally:
        process.send(signal.SIGKILL)
    if not ended or process.code:
        what = f"exit code {process.code}" if ended else f"killed after {timeout:g} s"
        raise ProcessFailed(f"{what}; it printed:\n{process.out}{process.err}")
    return process


def run_forked(
    *words: str, folder: pathlib.Path, timeout: float = 120, **environment: str
) -> nursery.Process:
    """Runs what `python <words>` would in a folder, forked from a process with TensorFlow.

    Args:
        words: the command line: a script, `-m <module>` or `-c <code>`.
        folder: where it runs; its own files are in a new folder there, whose name has a dot.
        timeout: seconds; after them the process and its children are killed.
        environment: variables that are set besides the present ones.

    Raises:
        ProcessFailed: the exit code is not 0, or the time was up.
    """
    files = pathlib.Path(tempfile.mkdtemp(prefix=".process-", dir=folder)) / "files"
    return finished(nursery.python(words, files, folder, **environment), timeout)


def call_workers(
    function: Callable,
    folder: pathlib.Path,
    *arguments: Any,
    workers: int = 2,
    timeout: float,
    **environment: str,
) -> list:
    """Calls a module's function in every task of a cluster on this machine, with one thread each.

    Args:
        function, arguments: as for `call`; the same for all tasks.
        folder: for the processes' files; an empty one.
        workers: how many.
        timeout: seconds; after them all are killed.
        environment: variables that are set besides the present ones.

    Returns:
        What the function has returned in each task, the chief first.

    Raises:
        ProcessFailed: one of them has failed, or the time was up; all have been killed.
    """
    configs = tf_configs(free_addresses(workers))
    tasks = {f"worker {index}": text for index, text in enumerate(configs)}
    return list(_call_tasks(function, folder, arguments, tasks, timeout, environment).values())


def call_parameter_server(
    function: Callable,
    folder: pathlib.Path,
    *arguments: Any,
    workers: int = 2,
    ps: int = 1,
    timeout: float,
    **environment: str,
) -> dict[str, Any]:
    """The same in every task of a cluster with a chief, workers and ps.

    Returns:
        By the tasks' names ("chief", "worker 0", "ps 0") what the function has returned there.
    """
    counts = {"chief": 1, "worker": workers, "ps": ps}
    addresses = iter(free_addresses(1 + workers + ps))
    jobs = {job: [next(addresses) for _ in range(count)] for job, count in counts.items()}
    tasks = {
        job if job == "chief" else f"{job} {i}": json.dumps(
            {"cluster": jobs, "task": {"type": job, "index": i}}
        )
        for job, count in counts.items()
        for i in range(count)
    }
    return _call_tasks(function, folder, arguments, tasks, timeout, environment)


def _call_tasks(
    function: Callable,
    folder: pathlib.Path,
    arguments: Sequence[Any],
    tasks: dict[str, str],
    timeout: float,
    environment: dict[str, str],
) -> dict[str, Any]:
    """Calls a function in tasks, of which each has its name and TF_CONFIG; returns the results."""
    with cores_for_a_cluster():
        return _in_tasks(function, folder, arguments, tasks, timeout, environment)


def _in_tasks(
    function: Callable,
    folder: pathlib.Path,
    arguments: Sequence[Any],
    tasks: dict[str, str],
    timeout: float,
    environment: dict[str, str],
) -> dict[str, Any]:
    processes = {
        name: nursery.start(
            function, folder / name.replace(" ", ""), arguments, **environment, TF_CONFIG=text
        )
        for name, text in tasks.items()
    }
    until, failed = time.monotonic() + timeout, False
    try:
        while None in (codes := [process.code for process in processes.values()]):
            if any(codes) and not failed:  # the others may have something to say about it
                until, failed = min(until, time.monotonic() + 5), True
            if time.monotonic() > until:
                break
            time.sleep(0.02)
    finally:
        for process in processes.values():
            process.send(signal.SIGKILL)
    if any(codes) or None in codes:
        told = [
            f"{name}: {'killed' if code is None else f'exit code {code}'}; it printed:\n"
            f"{process.out}{process.err}"
            for code, (name, process) in zip(codes, processes.items(), strict=True)
        ]
        raise ProcessFailed(
            f"of {len(processes)} tasks, after {timeout:g} s at most:\n" + "\n".join(told)
        )
    return {name: process.result() for name, process in processes.items()}


@functools.cache
def _lock_file() -> int:
    path = pathlib.Path(tempfile.gettempdir(), f"tfbig-tests-of-clusters-{os.getuid()}.lock")
    return os.open(path, os.O_RDWR | os.O_CREAT)


@contextlib.contextmanager
def cores_for_a_cluster() -> Iterator[None]:
    """Waits until no other worker of pytest-xdist has a cluster; until the end none gets one."""
    global _clusters
    if _clusters == 0:
        fcntl.flock(_lock_file(), fcntl.LOCK_EX)
    _clusters += 1
    try:
        yield
    finally:
        _clusters -= 1
        if _clusters == 0:
            fcntl.flock(_lock_file(), fcntl.LOCK_UN)


def keep_to_own_ports() -> None:
    """Lets `free_ports` give each worker of pytest-xdist ports of a range of its own."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        width = (ports._first_ephemeral_port() - ports._LOWEST) // count
        ports._LOWEST += int(worker.removeprefix("gw")) * width
        end = ports._LOWEST + width
        ports._first_ephemeral_port = lambda: end


def free_addresses(count: int) -> list[str]:
    """Addresses on loopback at which nobody listens."""
    return [f"127.0.0.1:{port}" for port in ports.free_ports(count, set())]


def tf_configs(addresses: Sequence[str]) -> list[str]:
    """The TF_CONFIG of each worker of a cluster."""
    return [
        json.dumps(
            {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
        )
        for index in range(len(addresses))
    ]


def main(name: str, folder: str) -> int:
    """Calls a function, "module:name", in the process of its own that this is.

    Its arguments are in `<folder>/arguments.json`; its result is left in `<folder>/result.json`.

    Returns:
        The exit code: 1 after an error, which is printed.
    """
    module, _, function = name.partition(":")
    arguments = json.loads(pathlib.Path(folder, "arguments.json").read_text())
    try:
        result = getattr(importlib.import_module(module), function)(*arguments)
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return 1
    pathlib.Path(folder, "result.json").write_text(json.dumps(result))
    return 0
