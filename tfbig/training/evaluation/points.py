"""The evaluations during a run, made here or by the evaluator of a cluster."""

from collections.abc import Callable
from typing import Any

from tfbig.placement.placement import Placement
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.evaluation.found_elsewhere import Evaluations
from tfbig.training.loop.agreement import Agreement
from tfbig.training.loop.meters import Meters
from tfbig.training.result import note, validation


class EvaluationPoints:
    """Evaluates when the loop asks for it, and notifies the callbacks.

    Args:
        evaluator: or None.
        elsewhere: the results of an evaluator task, which evaluates the checkpoints; then this
            task evaluates at the end only. None: there is no such task.
        placement: where.
        callbacks: get the results.
        meters: of training; an evaluation does not change them.
        agreement: with the other tasks of the run.
        kept: what `state` returned in an earlier process, or None.

    Attributes:
        metrics: of the last evaluation; {} before the first.
    """

    def __init__(
        self,
        evaluator: Evaluator | None,
        elsewhere: Evaluations | None,
        *,
        placement: Placement,
        callbacks: CallbackRunner,
        meters: Meters,
        agreement: Agreement,
        kept: dict[str, Any] | None,
    ):
        self._evaluator, self._elsewhere = evaluator, elsewhere
        self._placement, self._callbacks = placement, callbacks
        self._meters, self._agreement = meters, agreement
        self.metrics: dict[str, float] = kept["metrics"] if kept else {}
        self._at: int | None = kept["evaluated_at"] if kept else None
        self._is_new = False  # whether `metrics` were found in this epoch
        if self.need_checkpoints:
            callbacks.check_evaluator_task()
        if elsewhere is not None:  # the results of an earlier run do not belong to this one
            returned = kept.get("evaluations_told") if kept else None
            elsewhere.returned = len(elsewhere.read()) if returned is None else returned

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can hold it."""
        returned = None if self._elsewhere is None else self._elsewhere.returned
        return {"metrics": self.metrics, "evaluated_at": self._at, "evaluations_told": returned}

    @property
    def need_checkpoints(self) -> bool:
        """Whether another task evaluates, so that what it evaluates must be saved."""
        return self._evaluator is not None and self._elsewhere is not None

    def run(self, step: int, history: list[dict[str, float]], last: bool = False) -> bool:
        """Evaluates, or reads what another task has evaluated.

        Args:
            step: the global step.
            history: the results are added to it.
            last: whether the run has ended; then this task evaluates, unless it has done so at
                this step.

        Returns:
            Whether there are new results.
        """
        if self._evaluator is None:
            return False
        if self._elsewhere is not None:
            has_new = self._read_new(self._elsewhere, history)
            if not last:
                return has_new
        elif last and self._at == step:
            return False
        with self._placement.scope():
            kept = self._meters.put_aside()
            self.metrics = self._callbacks.evaluate(step, self._evaluated)
            self._meters.put_back(kept)
        note(history, step, validation(self.metrics))
        self._at, self._is_new = step, True
        return True

    def end_epoch(self) -> None:
        """Starts the next epoch: results from now on belong to it."""
        self._is_new = False

    def logs(self) -> dict[str, float]:
        """The metrics of the latest evaluation as val_…

        Results of an evaluator task are given in one epoch only. An epoch without new results does
        not mean that nothing has improved.
        """
        known = self._elsewhere is None or self._is_new
        return validation(self.metrics) if known else {}

    def _read_new(self, elsewhere: Evaluations, history: list[dict[str, float]]) -> bool:
        """Gives callbacks the new results of another task.

        They are of earlier steps, whose checkpoints were evaluated while training continued.
        """
        new = elsewhere.read_new()
        for step, metrics in new:
            with self._placement.scope():
                self.metrics = self._callbacks.evaluate(step, lambda on_call=None: metrics)  # noqa: B023
            note(history, step, validation(metrics))
            self._is_new = True
        return bool(new)

    def _evaluated(self, on_call: Callable | None = None) -> dict[str, float]:
        self._agreement.before_run(None)  # on_test_begin may have changed the weights
        metrics = self._evaluator(on_call)
        self._agreement.after_run()
        return metrics
