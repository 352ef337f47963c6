"""A cluster on this machine: starts its tasks, and starts them again if one fails."""

import functools
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import IO

from tfbig.errors import UserError
from tfbig.launch.interrupts import Interrupts
from tfbig.launch.keeper import Keeper
from tfbig.launch.lines import LinePrinter
from tfbig.launch.ports import free_ports
from tfbig.launch.process import TaskProcess
from tfbig.launch.supervisor import Supervisor, Waits
from tfbig.launch.tasks import cluster_tasks, environments


def launch(
    command: Sequence[str],
    workers: int = 2,
    ps: int = 0,
    evaluator: bool = False,
    restarts: int = 3,
    threads_per_task: int | None = None,
    out: IO | None = None,
    err: IO | None = None,
    waits: Waits = Waits(),  # noqa: B008 (frozen)
) -> int:
    """Runs a command as every task of a cluster on this machine, and watches over them.

    Each task gets its TF_CONFIG, and the number of earlier starts in TFBIG_LAUNCH_ATTEMPT; what
    it prints is passed on line by line, with its name before it. If a task fails, all are ended
    and started again; what has a model_dir goes on from its checkpoint. With a ps, a worker that
    fails is started again by itself, and the others go on meanwhile. SIGTERM and SIGINT are
    passed on, once. No process is left behind, also if this one is killed.

    Example: `launch(["python", "train.py"], workers=2)`.

    Args:
        command: the program and its arguments.
        workers: how many; the first is the chief, unless there is a ps.
        ps: parameter servers; with one there is a chief besides the workers.
        evaluator: whether there is one.
        restarts: how often all tasks are started again; with a ps also how often each worker,
            and the evaluator, is started again by itself.
        threads_per_task: for TensorFlow and OpenMP; None: the cores, shared by the tasks that
            train, unless the environment says how many.
        out: for the tasks' standard output; None: sys.stdout.
        err: for their standard error, and what the launcher has to say; None: sys.stderr.
        waits: how long for what.

    Returns:
        The chief's exit code, 128 + n if signal n killed it; 0 when the chief has ended well.

    Raises:
        UserError: the command is not there, or a number is too low.
        OSError: `out` or `err` takes no more; the tasks have been stopped by SIGTERM.
    """
    _check(command, workers, ps, restarts, threads_per_task)
    out, err = out or sys.stdout, err or sys.stderr
    notes = LinePrinter("tfbig launch: ", err)
    tasks = cluster_tasks(workers, ps, evaluator)
    listening = sum(task.type != "evaluator" for task in tasks)
    taken: set[int] = set()
    with Interrupts() as interrupts, Keeper() as keeper:
        for attempt in range(restarts + 1):
            ports = free_ports(listening, taken)
            taken.update(ports)
            variables = environments(tasks, ports, attempt, threads_per_task, os.environ)
            supervisor = Supervisor(interrupts, notes, waits, restarts)
            supervisor.run(
                [
                    functools.partial(
                        TaskProcess, task, command, environ, keeper, (out, err), waits.save
                    )
                    for task, environ in zip(tasks, variables, strict=True)
                ]
            )
            if supervisor.lost_output:
                raise supervisor.lost_output
            if not supervisor.may_restart or attempt == restarts:
                break
            notes.say(f"{supervisor.failed.ending()}; restart {attempt + 1} of {restarts}")
            interrupts.pause(min(waits.pause * 2**attempt, waits.longest_pause))
            if interrupts.received:
                name = signal.Signals(interrupts.received[0]).name
                notes.say(f"stopped by {name} before the restart")
                return 128 + interrupts.received[0]
    _tell_end(supervisor, restarts, notes)
    return supervisor.exit_code


def _tell_end(supervisor: Supervisor, restarts: int, notes: LinePrinter) -> None:
    """Says which task has failed, if one has, as the last line of all."""
    if supervisor.failed is None:
        return
    ending = supervisor.failed.ending()
    if supervisor.is_done:
        ending += ", but the job is done"
    elif supervisor.may_restart and restarts:
        ending += f", after {restarts} restart{'s' if restarts > 1 else ''}"
    notes.say(ending)


def _check(
    command: Sequence[str], workers: int, ps: int, restarts: int, threads: int | None
) -> None:
    least = {"workers": (workers, 1), "ps": (ps, 0), "restarts": (restarts, 0)}
    if threads is not None:
        least["threads_per_task"] = (threads, 1)
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise UserError(f"{name}={value}: expected {lowest} or more.")
    if not command:
        raise UserError('there is no command; write ["python", "train.py"], say.')
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]!r} is not found, or cannot be run; write a program on PATH, or its path."
        )
