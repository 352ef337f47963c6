"""One start of a cluster: watches its tasks until nothing of them is left."""

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

_LOOK_EVERY = 0.1  # seconds
# Bad flags; and what shells say of a command that cannot be run, or is not there.
_NEVER_AGAIN = (2, 126, 127)


@dataclasses.dataclass(frozen=True)
class Waits:
    """How long the launcher waits, in seconds.

    Attributes:
        after_failure: for the others to leave by themselves, once a task has failed.
        helpers: for ps to leave, once the chief has ended.
        workers: for workers and the evaluator to leave, once the chief has ended; and for all
            that save, once one task has been stopped.
        signal: for all to leave, once a signal to the launcher was passed on.
        save: from SIGTERM to SIGKILL.
        pause: before the first restart, and before that of a single task; twice as long before
            each further one.
        longest_pause: before a restart.
    """

    after_failure: float = 10.0
    helpers: float = 10.0
    workers: float = 60.0
    signal: float = 120.0
    save: float = 15.0
    pause: float = 1.0
    longest_pause: float = 30.0


class Supervisor:
    """Watches the tasks of one start.

    Args:
        interrupts: the launcher's signals; the first is passed on, the second one kills.
        notes: for what the launcher itself has to say.
        waits: how long for what.
        restarts: how often a task is started again by itself, where others can go on meanwhile:
            a worker or the evaluator, if there are parameter servers.

    Attributes:
        failed: the first task that has ended in an error, before any was stopped; or None.
        lost_output: the error with which the launcher's own output took no more; or None.
    """

    def __init__(self, interrupts: Interrupts, notes: LinePrinter, waits: Waits, restarts: int = 0):
        self.failed: TaskProcess | None = None
        self.lost_output: OSError | None = None
        self._interrupts, self._notes, self._waits = interrupts, notes, waits
        self._processes: list[TaskProcess] = []
        self._starts: dict[Task, Callable[[], TaskProcess]] = {}
        self._restarts: dict[Task, int] = collections.defaultdict(lambda: restarts)
        self._restart_at: dict[Task, float] = {}
        self._stopped: TaskProcess | None = None
        self._told_of_signal = False

    @property
    def chief(self) -> TaskProcess:
        return next(process for process in self._processes if process.task.is_chief)

    @property
    def is_done(self) -> bool:
        """Whether the chief has ended well, and by itself: so has the job."""
        return self.chief.code == 0 and not self.chief.told

    @property
    def may_restart(self) -> bool:
        """Whether the job has failed in a way that another start may not."""
        if self.is_done or self.failed is None or self._stopped or self._interrupts.received:
            return False
        return self.failed.code not in _NEVER_AGAIN

    @property
    def exit_code(self) -> int:
        """The chief's; the failed task's if the chief ended only because of that one."""
        if self.chief.told and self.failed is not None and not self._stopped:
            return self.failed.exit_code
        return self.chief.exit_code

    def run(self, starts: list[Callable[[], TaskProcess]]) -> None:
        """Starts the tasks and returns when nothing of any is left.

        Args:
            starts: each starts one task.
        """
        self._interrupts.listener = self._pass_on_signals
        with selectors.DefaultSelector() as selector:
            try:
                for start in starts:
                    process = start()
                    self._starts[process.task] = start
                    self._processes.append(process)
                    process.watch(selector)
                self._watch(selector)
            finally:
                self._interrupts.listener = None
                for process in self._processes:
                    process.abandon()

    def _watch(self, selector: selectors.BaseSelector) -> None:
        while not all(process.gone for process in self._processes) or self._restart_at:
            self._restart_some(selector)
            self._pass_on_signals()  # to those that were being started when it came
            for key, _ in selector.select(_LOOK_EVERY):
                key.data.read(key.fileobj, selector)
            told_before = [process for process in self._processes if process.told]
            ended = [process for process in self._processes if process.look(selector)]
            self._judge(ended)
            self._tell_news(told_before)

    def _pass_on_signals(self) -> None:
        """The first signal goes to all tasks; the second kills all. A signal handler too."""
        received = self._interrupts.received
        for process in self._processes if received else ():
            process.pass_on(received[0])
            if len(received) > 1:
                process.kill()

    def _judge(self, ended: list[TaskProcess]) -> None:
        """Decides what the end of some tasks means for the others."""
        for process in ended:
            if process.was_stopped and not process.told and not self._interrupts.received:
                self._stopped = self._stopped or process
                if self._stopped is process:
                    others = "; the others leave too" if len(self._processes) > 1 else ""
                    self._notes.say(f"{process.ending()}: it was stopped{others}")
                self._end_others(self._waits.workers, self._waits.workers)
        # Who was killed comes first: the others fail because of it.
        for process in sorted(ended, key=lambda process: process.code):
            if process.task.is_chief:
                self._end_others(self._waits.helpers, self._waits.workers)
            if process.code == 0 or process.was_stopped or process.told:
                continue
            if self._stopped or self._interrupts.received:
                self._end_others(self._waits.workers, self._waits.workers)
            elif self._goes_without(process):
                self._restart_soon(process)
            elif self.is_done:
                if process.task.trains:
                    self._notes.say(f"{process.ending()}, after the job was done")
            else:
                self.failed = self.failed or process
                self._end_others(self._waits.after_failure, self._waits.after_failure)

    def _goes_without(self, process: TaskProcess) -> bool:
        """Whether the others go on without a task that has failed, until it is there again."""
        servers = any(other.task.type == "ps" for other in self._processes)
        return (
            servers
            and process.task.type in ("worker", "evaluator")
            and process.code not in _NEVER_AGAIN
            and self.chief.code is None
            and self.failed is None
            and self._restarts[process.task] > 0
        )

    def _restart_soon(self, process: TaskProcess) -> None:
        self._restarts[process.task] -= 1
        self._restart_at[process.task] = time.monotonic() + self._waits.pause
        self._notes.say(f"{process.ending()}; it is started again, the others go on")

    def _restart_some(self, selector: selectors.BaseSelector) -> None:
        """Starts tasks again whose time has come, and of which nothing is left."""
        if self._restart_at and (
            self.chief.code is not None or self.failed or self._stopped or self._interrupts.received
        ):
            self._restart_at.clear()
        for place, process in enumerate(self._processes):
            at = self._restart_at.get(process.task)
            if at is not None and process.gone and time.monotonic() >= at:
                del self._restart_at[process.task]
                self._processes[place] = self._starts[process.task]()
                self._processes[place].watch(selector)

    def _end_others(self, helpers: float, workers: float) -> None:
        for process in self._processes:
            # An evaluator has the last checkpoint to evaluate.
            process.end_within(helpers if process.task.type == "ps" else workers)

    def _tell_news(self, told_before: list[TaskProcess]) -> None:
        for process in self._processes:
            newly_told = process.told and process not in told_before
            if newly_told and process.task.trains and self.is_done:
                self._notes.say(
                    f"{process.task.name} goes on {self._waits.workers:g} s after the job was "
                    "done; it is stopped"
                )
            self.lost_output = self.lost_output or process.lost_output
        if self.lost_output and not self._interrupts.received:
            self._interrupts.received.append(signal.SIGTERM)
            self._told_of_signal = True
        if self._interrupts.received and not self._told_of_signal:
            self._told_of_signal = True
            name = signal.Signals(self._interrupts.received[0]).name
            self._notes.say(
                f"{name} is passed on to all tasks, which have {self._waits.signal:g} s to save; a "
                "second one kills them"
            )
            self._end_others(self._waits.signal, self._waits.signal)
