"""Runs the processes of folds, several at a time, and stops all of them at the end."""

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
from tfbig.evaluation.fold_process import NAME, SECONDS_TO_SAVE, FoldJob, run_fold
from tfbig.training.loop.preemption import Preemption

log = logging.getLogger("tfbig")

_POLL_SECONDS = 0.2


def run_jobs(
    jobs: Sequence[FoldJob],
    folds: int,
    train: Callable,
    read: Callable[..., Source],
    sent: dict[str, bytes],
    *,
    parallel: int,
) -> str | None:
    """Runs folds in order, each in its own process.

    Args:
        jobs: the folds that have not finished.
        folds: the number of all folds.
        train, read, sent: as for `run_fold`.
        parallel: the number of folds that run at the same time.

    Returns:
        None, or the name of the signal that stopped the run.

    Raises:
        UserError, FoldFailed: a fold failed; the others were stopped.
    """
    waiting, running = list(jobs), {}
    with Preemption().watching() as preemption:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    log.info("fold %d of %d starts; its log is %s", job.number, folds, job.log)
                    process, failure = _start(job, train, read, sent)
                    running[process] = job, failure
                sentinels = [process.sentinel for process in running]
                multiprocessing.connection.wait(sentinels, _POLL_SECONDS)
                if preemption.signal is not None:
                    return preemption.signal
                for process in [process for process in running if not process.is_alive()]:
                    job, failure = running.pop(process)
                    _check(job, folds, process, failure)
                    log.info("fold %d of %d has finished", job.number, folds)
        finally:
            _stop(list(running))
    return None


def _start(job: FoldJob, train: Callable, read: Callable, sent: dict[str, bytes]) -> tuple:
    """Starts a process; returns it and the end of the pipe on which it reports a failure."""
    context = multiprocessing.get_context("spawn")
    failure, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=run_fold, args=(job, train, read, sent, sender), name=f"{NAME} {job.number}"
    )
    os.makedirs(job.folder, exist_ok=True)
    # Ctrl-C reaches every process of a terminal, and a second signal would end a fold before it
    # has saved. So block SIGINT in the folds; this process sends them one SIGTERM. The resource
    # tracker must run before, because its start would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()
    return process, failure


def _check(job: FoldJob, folds: int, process: BaseProcess, failure) -> None:
    process.join()
    if process.exitcode == 0 and os.path.exists(job.result):
        return
    fold = f"fold {job.number} of {folds}"
    log_file = f" (log: {job.log})" if os.path.exists(job.log) else ""
    try:
        is_user_error, message = failure.recv()
    except EOFError:  # the process ended before it could report
        raise FoldFailed(f"{fold} {_describe_exit(process.exitcode)}{log_file}") from None
    raise (UserError if is_user_error else FoldFailed)(f"{fold}: {message}{log_file}")


def _describe_exit(code: int) -> str:
    if code == 128 + signal.SIGTERM:
        return "was stopped by SIGTERM"
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", possibly out of memory" if code == -9 else "")
    return (
        f"ended with exit code {code} without a reason; see its log, or standard error if the "
        "script itself could not be imported"
    )


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Sends SIGTERM, so that the processes save and exit, and kills those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + SECONDS_TO_SAVE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
