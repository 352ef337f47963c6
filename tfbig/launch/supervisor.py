"""Supervisor: runs the tasks of one start of a cluster until all have ended."""

import collections
import dataclasses
import selectors
import signal
import time
from collections.abc import Callable

from tfbig.launch.interrupts import Interrupts
from tfbig.launch.lines import LinePrinter
from tfbig.launch.process import TaskProcess
from tfbig.launch.tasks import Task

_POLL_SECONDS = 0.1
# Bad flags, and a command that cannot be executed or found: a restart would fail again.
_PERMANENT_FAILURES = (2, 126, 127)


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long the launcher waits, in seconds.

    Attributes:
        after_failure: for the other tasks to exit after a task has failed.
        helpers: for parameter servers to exit after the chief.
        workers: for workers and the evaluator to exit after the chief; and for all tasks to save
            after one task was stopped.
        signal: for all tasks to exit after a signal was forwarded.
        save: from SIGTERM to SIGKILL.
        pause: before the first restart of all tasks, or the restart of a single task; doubled
            before each further restart of all tasks.
        longest_pause: the largest pause before a restart.
    """

    after_failure: float = 10.0
    helpers: float = 10.0
    workers: float = 60.0
    signal: float = 120.0
    save: float = 15.0
    pause: float = 1.0
    longest_pause: float = 30.0


class Supervisor:
    """Runs the tasks of one start and handles failures and signals.

    Args:
        interrupts: the signals of the launcher. The first one is forwarded to the tasks; the
            second one kills them.
        messages: prints the messages of the launcher.
        timeouts: how long to wait.
        restarts: how often a worker or the evaluator is restarted alone, if there are parameter
            servers, so that the others continue.

    Attributes:
        failed: the first task that failed before any task was stopped; or None.
        output_error: the error of a write to the launcher's own output; or None.
    """

    def __init__(
        self, interrupts: Interrupts, messages: LinePrinter, timeouts: Timeouts, restarts: int = 0
    ):
        self.failed: TaskProcess | None = None
        self.output_error: OSError | None = None
        self._interrupts, self._messages, self._timeouts = interrupts, messages, timeouts
        self._processes: list[TaskProcess] = []
        self._starts: dict[Task, Callable[[], TaskProcess]] = {}
        self._restarts: dict[Task, int] = collections.defaultdict(lambda: restarts)
        self._restart_at: dict[Task, float] = {}
        self._stopped: TaskProcess | None = None
        self._signal_was_reported = False

    @property
    def chief(self) -> TaskProcess:
        """The process of the chief."""
        return next(process for process in self._processes if process.task.is_chief)

    @property
    def is_done(self) -> bool:
        """Whether the job has finished: the chief exited with 0 without being terminated."""
        return self.chief.code == 0 and not self.chief.terminated

    @property
    def may_restart(self) -> bool:
        """Whether the job failed in a way that a restart may fix."""
        if self.is_done or self.failed is None or self._stopped or self._interrupts.received:
            return False
        return self.failed.code not in _PERMANENT_FAILURES

    @property
    def exit_code(self) -> int:
        """The exit code of the chief, or of the failed task because of which it was terminated."""
        if self.chief.terminated and self.failed is not None and not self._stopped:
            return self.failed.exit_code
        return self.chief.exit_code

    def run(self, starts: list[Callable[[], TaskProcess]]) -> None:
        """Starts the tasks and returns when all have ended.

        Args:
            starts: functions that each start one task.
        """
        self._interrupts.listener = self._forward_signals
        with selectors.DefaultSelector() as selector:
            try:
                for start in starts:
                    process = start()
                    self._starts[process.task] = start
                    self._processes.append(process)
                    process.watch(selector)
                self._run_loop(selector)
            finally:
                self._interrupts.listener = None
                for process in self._processes:
                    process.abandon()

    def _run_loop(self, selector: selectors.BaseSelector) -> None:
        while not all(process.gone for process in self._processes) or self._restart_at:
            self._restart_due_tasks(selector)
            self._forward_signals()  # to tasks that were starting when the signal arrived
            for key, _ in selector.select(_POLL_SECONDS):
                key.data.read(key.fileobj, selector)
            terminated_before = [process for process in self._processes if process.terminated]
            ended = [process for process in self._processes if process.poll(selector)]
            self._handle_exits(ended)
            self._report_changes(terminated_before)

    def _forward_signals(self) -> None:
        """Forwards the first signal to all tasks; the second kills them. A signal handler, too."""
        received = self._interrupts.received
        for process in self._processes if received else ():
            process.forward_signal(received[0])
            if len(received) > 1:
                process.kill()

    def _handle_exits(self, ended: list[TaskProcess]) -> None:
        """Stops or restarts tasks after the end of others."""
        for process in ended:
            if process.was_stopped and not process.terminated and not self._interrupts.received:
                self._stopped = self._stopped or process
                if self._stopped is process:
                    others = "; the other tasks are stopped too" if len(self._processes) > 1 else ""
                    self._messages.print_line(f"{process.ending()}: it was stopped{others}")
                self._stop_others(self._timeouts.workers, self._timeouts.workers)
        # Handle killed tasks first, because the others fail as a consequence.
        for process in sorted(ended, key=lambda process: process.code):
            if process.task.is_chief:
                self._stop_others(self._timeouts.helpers, self._timeouts.workers)
            if process.code == 0 or process.was_stopped or process.terminated:
                continue
            if self._stopped or self._interrupts.received:
                self._stop_others(self._timeouts.workers, self._timeouts.workers)
            elif self._can_restart_alone(process):
                self._schedule_restart(process)
            elif self.is_done:
                if process.task.trains:
                    self._messages.print_line(f"{process.ending()}, after the job finished")
            else:
                self.failed = self.failed or process
                self._stop_others(self._timeouts.after_failure, self._timeouts.after_failure)

    def _can_restart_alone(self, process: TaskProcess) -> bool:
        """Whether the others can continue while a failed task is restarted."""
        servers = any(other.task.type == "ps" for other in self._processes)
        return (
            servers
            and process.task.type in ("worker", "evaluator")
            and process.code not in _PERMANENT_FAILURES
            and self.chief.code is None
            and self.failed is None
            and self._restarts[process.task] > 0
        )

    def _schedule_restart(self, process: TaskProcess) -> None:
        self._restarts[process.task] -= 1
        self._restart_at[process.task] = time.monotonic() + self._timeouts.pause
        self._messages.print_line(f"{process.ending()}; it is restarted, the others continue")

    def _restart_due_tasks(self, selector: selectors.BaseSelector) -> None:
        """Restarts tasks whose pause is over and whose process group has ended."""
        if self._restart_at and (
            self.chief.code is not None or self.failed or self._stopped or self._interrupts.received
        ):
            self._restart_at.clear()
        for i, process in enumerate(self._processes):
            at = self._restart_at.get(process.task)
            if at is not None and process.gone and time.monotonic() >= at:
                del self._restart_at[process.task]
                self._processes[i] = self._starts[process.task]()
                self._processes[i].watch(selector)

    def _stop_others(self, helpers: float, workers: float) -> None:
        for process in self._processes:
            # An evaluator may still evaluate the last checkpoint.
            process.stop_after(helpers if process.task.type == "ps" else workers)

    def _report_changes(self, terminated_before: list[TaskProcess]) -> None:
        for process in self._processes:
            newly_terminated = process.terminated and process not in terminated_before
            if newly_terminated and process.task.trains and self.is_done:
                self._messages.print_line(
                    f"{process.task.name} is still running {self._timeouts.workers:g} s after the "
                    "job finished; it is stopped"
                )
            self.output_error = self.output_error or process.output_error
        if self.output_error and not self._interrupts.received:
            self._interrupts.received.append(signal.SIGTERM)
            self._signal_was_reported = True
        if self._interrupts.received and not self._signal_was_reported:
            self._signal_was_reported = True
            name = signal.Signals(self._interrupts.received[0]).name
            self._messages.print_line(
                f"{name} is forwarded to all tasks, which have {self._timeouts.signal:g} s to "
                "save; a second signal kills them"
            )
            self._stop_others(self._timeouts.signal, self._timeouts.signal)
