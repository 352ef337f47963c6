"""Starts the processes of folds, some at the same time, and sees to it that none is left."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

from tfbig.data.source import Source
from tfbig.errors import FoldFailed, UserError
from tfbig.evaluation.fold_process import NAME, SECONDS_TO_SAVE, Job, run_fold
from tfbig.training.loop.preemption import Preemption

log = logging.getLogger("tfbig")

_POLL_SECONDS = 0.2


def run_jobs(
    jobs: Sequence[Job],
    of: int,
    train: Callable,
    read: Callable[..., Source],
    sent: dict[str, bytes],
    *,
    parallel: int,
) -> str | None:
    """Carries out folds in their order, each in a process of its own.

    Args:
        jobs: the folds that are left.
        of: how many there are in all.
        train, read, sent: see `run_fold`.
        parallel: how many run at the same time.

    Returns:
        None, or the name of the signal that has stopped it.

    Raises:
        UserError, FoldFailed: a fold has failed; the others are stopped.
    """
    waiting, running = list(jobs), {}
    with Preemption().watching() as preemption:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    log.info("fold %d of %d begins; its log is %s", job.number, of, job.log)
                    process, failure = _start(job, train, read, sent)
                    running[process] = job, failure
                sentinels = [process.sentinel for process in running]
                multiprocessing.connection.wait(sentinels, _POLL_SECONDS)
                if preemption.signal is not None:
                    return preemption.signal
                for process in [process for process in running if not process.is_alive()]:
                    job, failure = running.pop(process)
                    _check(job, of, process, failure)
                    log.info("fold %d of %d has ended", job.number, of)
        finally:
            _stop(list(running))
    return None


def _start(job: Job, train: Callable, read: Callable, sent: dict[str, bytes]) -> tuple:
    """The process, and the end of a pipe that has its failure if there is one."""
    context = multiprocessing.get_context("spawn")
    failure, told = context.Pipe(duplex=False)
    process = context.Process(
        target=run_fold, args=(job, train, read, sent, told), name=f"{NAME} {job.number}"
    )
    os.makedirs(job.folder, exist_ok=True)
    # Ctrl-C reaches every process of a terminal, but a second signal would end a fold before it
    # has saved; so SIGINT is blocked there, and this process passes on one SIGTERM. Starting the
    # tracker of the first process would take the block away again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        told.close()
    return process, failure


def _check(job: Job, of: int, process: BaseProcess, failure) -> None:
    process.join()
    if process.exitcode == 0 and os.path.exists(job.result):
        return
    fold = f"fold {job.number} of {of}"
    log_file = f" (log: {job.log})" if os.path.exists(job.log) else ""
    try:
        users, message = failure.recv()
    except EOFError:  # it had no time to say
        raise FoldFailed(f"{fold} {_ended(process.exitcode)}{log_file}") from None
    raise (UserError if users else FoldFailed)(f"{fold}: {message}{log_file}")


def _ended(code: int) -> str:
    if code == 128 + signal.SIGTERM:
        return "was stopped by SIGTERM"
    if code < 0:
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (", for want of memory perhaps" if code == -9 else "")
    return (
        f"ended with exit code {code} before it could say why; see its log, or standard error if "
        "the script itself could not be read again"
    )


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Asks the processes to save and leave, and kills those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + SECONDS_TO_SAVE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
