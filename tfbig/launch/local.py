"""Runs a cluster on this machine, and restarts it if a task fails."""

import functools
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import IO

from tfbig.errors import UserError
from tfbig.launch.interrupts import Interrupts
from tfbig.launch.lines import LinePrinter
from tfbig.launch.ports import free_ports
from tfbig.launch.process import TaskProcess
from tfbig.launch.supervisor import Supervisor, Timeouts
from tfbig.launch.tasks import cluster_tasks, environments
from tfbig.launch.watchdog import Watchdog


def launch(
    command: Sequence[str],
    workers: int = 2,
    ps: int = 0,
    evaluator: bool = False,
    restarts: int = 3,
    threads_per_task: int | None = None,
    out: IO | None = None,
    err: IO | None = None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 (frozen)
) -> int:
    """Runs a command as every task of a cluster on this machine, and supervises the tasks.

    Each task gets its own TF_CONFIG, and the number of earlier starts in TFBIG_LAUNCH_ATTEMPT. Its
    output is printed line by line with the name of the task. If a task fails, all tasks are
    stopped and restarted; runs with a model_dir resume from their checkpoint. With parameter
    servers, a failed worker is restarted alone while the others continue. SIGTERM and SIGINT are
    forwarded once. No process is left running, even if this one is killed.

    Example: `launch(["python", "train.py"], workers=2)`.

    Args:
        command: the program and its arguments.
        workers: the number of workers; the first is the chief, unless there are parameter servers.
        ps: the number of parameter servers; with them, there is a chief besides the workers.
        evaluator: whether to run an evaluator.
        restarts: how often all tasks are restarted; with parameter servers, also how often each
            worker and the evaluator are restarted alone.
        threads_per_task: the number of threads for TensorFlow and OpenMP; None shares the cores
            among the tasks that train, unless the environment sets the number.
        out: the stream for the tasks' standard output; None for sys.stdout.
        err: the stream for their standard error and the messages of the launcher; None for
            sys.stderr.
        timeouts: how long to wait.

    Returns:
        The exit code of the chief; 128 + n if signal n killed it.

    Raises:
        UserError: the command does not exist, or a number is too low.
        OSError: a write to `out` or `err` failed; the tasks were stopped with SIGTERM.
    """
    _check(command, workers, ps, restarts, threads_per_task)
    out, err = out or sys.stdout, err or sys.stderr
    messages = LinePrinter("tfbig launch: ", err)
    tasks = cluster_tasks(workers, ps, evaluator)
    listening = sum(task.type != "evaluator" for task in tasks)
    used_ports: set[int] = set()
    with Interrupts() as interrupts, Watchdog() as watchdog:
        for attempt in range(restarts + 1):
            ports = free_ports(listening, used_ports)
            used_ports.update(ports)
            variables = environments(tasks, ports, attempt, threads_per_task, os.environ)
            supervisor = Supervisor(interrupts, messages, timeouts, restarts)
            supervisor.run(
                [
                    functools.partial(
                        TaskProcess, task, command, environ, watchdog, (out, err), timeouts.save
                    )
                    for task, environ in zip(tasks, variables, strict=True)
                ]
            )
            if supervisor.output_error:
                raise supervisor.output_error
            if not supervisor.may_restart or attempt == restarts:
                break
            messages.print_line(
                f"{supervisor.failed.ending()}; restart {attempt + 1} of {restarts}"
            )
            interrupts.pause(min(timeouts.pause * 2**attempt, timeouts.longest_pause))
            if interrupts.received:
                name = signal.Signals(interrupts.received[0]).name
                messages.print_line(f"stopped by {name} before the restart")
                return 128 + interrupts.received[0]
    _report_failure(supervisor, restarts, messages)
    return supervisor.exit_code


def _report_failure(supervisor: Supervisor, restarts: int, messages: LinePrinter) -> None:
    """Prints which task failed, if one did, as the last line."""
    if supervisor.failed is None:
        return
    ending = supervisor.failed.ending()
    if supervisor.is_done:
        ending += ", but the job has finished"
    elif supervisor.may_restart and restarts:
        ending += f", after {restarts} restart{'s' if restarts > 1 else ''}"
    messages.print_line(ending)


def _check(
    command: Sequence[str], workers: int, ps: int, restarts: int, threads: int | None
) -> None:
    minima = {"workers": (workers, 1), "ps": (ps, 0), "restarts": (restarts, 0)}
    if threads is not None:
        minima["threads_per_task"] = (threads, 1)
    for name, (value, lowest) in minima.items():
        if value < lowest:
            raise UserError(f"{name}={value}: expected {lowest} or more.")
    if not command:
        raise UserError('there is no command; pass one, such as ["python", "train.py"].')
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]!r} was not found or is not executable; pass a program on PATH, or a path."
        )
