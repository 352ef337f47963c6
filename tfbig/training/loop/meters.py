"""Running loss and metrics: since the last log point, and since the epoch began."""

import logging
import time

import numpy as np

from tfbig.placement.placement import Placement
from tfbig.placement.staleness import StalenessStats
from tfbig.programs.metric_aggregation import NOT_ADDITIVE, PARTS, UNKNOWN_KIND
from tfbig.programs.program import Program

log = logging.getLogger("tfbig")

_MUCH = 0.1  # a larger share of the time spent waiting for data is worth a warning
_ENOUGH_SECONDS = 1.0  # shorter runs mostly measure the start


class Meters:
    """Loss, metrics and rates of training.

    The metrics' variables hold the span since the last log point. At each log point the span's
    sums are added to the epoch's, and the variables are reset. A metric whose values of two spans
    do not add up (a maximum) is reset at the start of an epoch only, and covers the epoch so far.

    Args:
        program, placement: whose metrics.
        epochs: keep the epoch's metrics too, which costs as much as a few steps a log point.
    """

    def __init__(self, program: Program, placement: Placement, epochs: bool):
        self._program, self._placement, self._epochs = program, placement, epochs
        self._own = program.runs_custom_step(training=True)  # then the loss is among its metrics
        self._span = [0.0, 0.0]  # sum of loss times examples, examples
        self._epoch = [0.0, 0.0]
        self._epoch_metrics: list[np.ndarray] | None = None
        self._ended: list[np.ndarray] | None = None  # the metrics' values at an epoch's end
        self._steps, self._seconds = 0, 0.0
        self._examples = 0.0
        self._staleness: StalenessStats | None = None  # since the last log point

    def add(
        self,
        loss_sum: float,
        examples: float,
        steps: int,
        seconds: float,
        staleness: StalenessStats | None = None,
    ) -> None:
        """Adds the result of a call of the loop function."""
        if staleness is not None:
            self._staleness = (
                staleness if self._staleness is None else self._staleness.with_(staleness)
            )
        for total in (self._span, self._epoch):
            total[0] += loss_sum
            total[1] += examples
        self._steps += steps
        self._examples += examples
        self._seconds += seconds

    @property
    def pending(self) -> bool:
        """Whether there were steps since the last log point."""
        return self._span[1] > 0

    def span(self, ends: bool = True) -> dict[str, float]:
        """Loss, metrics and rates since the last log point.

        Args:
            ends: this is the next log point; otherwise the span goes on.
        """
        logs = {}
        if self._span[1] and not self._own:
            logs["loss"] = self._span[0] / self._span[1]
        logs.update(self._results(logs.get("loss")))
        if self._staleness is not None:
            logs["staleness"] = self._staleness.total / max(self._steps, 1)
            logs["staleness_max"] = float(self._staleness.most)
            logs["gradients_dropped"] = float(self._staleness.dropped)
        seconds = max(self._seconds, 1e-9)
        logs["steps_per_sec"] = self._steps / seconds
        logs["examples_per_sec"] = self._examples / seconds
        if ends:
            with self._placement.scope():
                gained = self._reset(running=False)
            if self._epochs and gained:
                before = self._epoch_metrics or [0] * len(gained)
                self._epoch_metrics = [a + b for a, b in zip(before, gained, strict=True)]
            self._span, self._steps, self._seconds, self._examples = [0.0, 0.0], 0, 0.0, 0.0
            self._staleness = None
        return logs

    def put_aside(self) -> list[np.ndarray]:
        """Returns the metrics' values, while an evaluation uses their variables."""
        return [v.numpy() for v in self._program.metric_variables]

    def put_back(self, values: list[np.ndarray]) -> None:
        """Restores the values that `put_aside` returned."""
        for variable, value in zip(self._program.metric_variables, values, strict=True):
            variable.assign(value)

    def epoch(self) -> dict[str, float]:
        """Loss and metrics since the start of the epoch; {} unless they are kept."""
        if not self._epochs:
            return {}
        logs = {}
        if self._epoch[1] and not self._own:
            logs["loss"] = self._epoch[0] / self._epoch[1]
        variables = self._program.metric_variables
        with self._placement.scope():
            span = self.put_aside()
            if self._epoch_metrics is not None:
                for variable, now, before in zip(variables, span, self._epoch_metrics, strict=True):
                    variable.assign(now + before)
            logs.update(self._results(logs.get("loss")))
            self.put_back(span)
        return logs

    def start_epoch(self) -> None:
        """Resets the epoch's sums; the span continues, and its past belongs to the last epoch."""
        self._epoch = [0.0, 0.0]
        if self._program.has_running_metrics:
            self._ended = self.put_aside()
        with self._placement.scope():
            gained = self._reset(running=True)
        # The span's metrics so far belong to the epoch that has ended.
        self._epoch_metrics = [-v for v in gained] or None

    def _results(self, loss: float | None) -> dict[str, float]:
        """The metrics' results.

        A run may end with an epoch, and its last log point comes after the end of that. So metrics
        that run through an epoch have its last values until the next epoch's first step.
        """
        if self._ended is None or self._epoch[1]:
            return self._program.metric_results(loss)
        with self._placement.scope():
            kept = self.put_aside()
            values = zip(self._ended, kept, self._running(), strict=True)
            self.put_back([ended if runs else value for ended, value, runs in values])
            results = self._program.metric_results(loss)
            self.put_back(kept)
        return results

    def _running(self) -> list[bool]:
        """For each of the metrics' variables: whether two spans do not add up."""
        program = self._program
        kinds = program.metric_kinds or [PARTS] * len(program.metric_variables)
        return [kind in (NOT_ADDITIVE, UNKNOWN_KIND) for kind in kinds]

    def _reset(self, *, running: bool) -> list[np.ndarray]:
        """Sets metrics to their start: those that run through an epoch, or all others.

        Returns:
            What each variable was above its start; 0 for those of which two spans do not add up.
        """
        kept = self.put_aside()
        self._program.reset_metrics()
        gained = []
        values = zip(
            self._program.metric_variables, kept, self.put_aside(), self._running(), strict=True
        )
        for variable, value, start, runs in values:
            gained.append(np.zeros_like(value) if runs else value - start)
            if runs != running:
                variable.assign(value)
        return gained

    def state(self) -> dict:
        """What a checkpoint keeps, as JSON; the span's metrics are in the variables."""
        lists = lambda metrics: None if metrics is None else [m.tolist() for m in metrics]  # noqa: E731
        return {
            "span": self._span,
            "epoch": self._epoch,
            "epoch_metrics": lists(self._epoch_metrics),
            "ended": lists(self._ended),
        }

    def load(self, state: dict) -> None:
        """Restores what `state` returned."""
        self._span, self._epoch = list(state["span"]), list(state["epoch"])
        self._epoch_metrics = self._as_arrays(state["epoch_metrics"])
        self._ended = self._as_arrays(state.get("ended"))

    def _as_arrays(self, lists: list | None) -> list[np.ndarray] | None:
        if lists is None:
            return None
        return [
            np.asarray(m, v.dtype if isinstance(v.dtype, str) else v.dtype.as_numpy_dtype)
            for m, v in zip(lists, self._program.metric_variables, strict=True)
        ]


class DataWait:
    """The share of a run's time in which the step waited for data."""

    def __init__(self):
        self._waited = self._worked = 0.0

    def add(self, waited: float, worked: float) -> None:
        """Adds the seconds of one call: before it, and in it."""
        self._waited += waited
        self._worked += worked

    @property
    def share(self) -> float | None:
        """From 0 to 1; None: nothing was measured."""
        total = self._waited + self._worked
        return self._waited / total if total else None

    def report(self, remedy: str) -> None:
        """Logs the share, and a remedy if it is a tenth or more."""
        share = self.share
        if share is None:
            return
        log.info("the step waited for data %.1f %% of the time", 100 * share)
        if share >= _MUCH and self._waited + self._worked >= _ENOUGH_SECONDS:
            log.warning("the step waited for data %.0f %% of the time: %s", 100 * share, remedy)


class Stopwatch:
    """Measures the seconds inside a block."""

    def __enter__(self):
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.seconds = time.perf_counter() - self._start
