"""The evaluations of a run on its way, made here or by the evaluator of a cluster."""

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
    """Evaluates where the loop asks for it, and lets the callbacks know.

    Args:
        evaluator: or None.
        elsewhere: what another task finds, which evaluates the checkpoints; this one evaluates
            at the end alone.
        placement: where.
        callbacks: are told.
        meters: of training, which an evaluation leaves as they are.
        agreement: with the other tasks of the run.
        kept: what `state` has returned in an earlier process, or None.

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
        self._has_news = False  # of `elsewhere`, in this epoch
        if self.need_checkpoints:
            callbacks.check_evaluated_elsewhere()
        if elsewhere is not None:  # those of an earlier run are none of this one
            told = kept.get("evaluations_told") if kept else None
            elsewhere.told = len(elsewhere.read()) if told is None else told

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can hold it."""
        told = None if self._elsewhere is None else self._elsewhere.told
        return {"metrics": self.metrics, "evaluated_at": self._at, "evaluations_told": told}

    @property
    def need_checkpoints(self) -> bool:
        """Whether what is to be evaluated has to be saved, for another task."""
        return self._evaluator is not None and self._elsewhere is not None

    def run(self, step: int, history: list[dict[str, float]], last: bool = False) -> bool:
        """Evaluates, or hears of what was evaluated elsewhere; returns whether there is news.

        Args:
            step: the global step.
            history: has what is found added.
            last: the run has come to its end: this task evaluates, unless it just has.
        """
        if self._evaluator is None:
            return False
        if self._elsewhere is not None:
            news = self._take_news(self._elsewhere, history)
            if not last:
                return news
        elif last and self._at == step:
            return False
        with self._placement.scope():
            kept = self._meters.put_aside()
            self.metrics = self._callbacks.evaluate(step, self._evaluated)
            self._meters.put_back(kept)
        note(history, step, validation(self.metrics))
        self._at, self._has_news = step, True
        return True

    def end_epoch(self) -> None:
        """What is found from now on is of the next epoch."""
        self._has_news = False

    def logs(self) -> dict[str, float]:
        """The metrics of the latest evaluation as val_…

        Of an evaluator none are told twice: no news is not that nothing has become better.
        """
        known = self._elsewhere is None or self._has_news
        return validation(self.metrics) if known else {}

    def _take_news(self, elsewhere: Evaluations, history: list[dict[str, float]]) -> bool:
        """Lets callbacks know of the evaluations that another task has made meanwhile.

        They are of earlier steps, whose checkpoints were evaluated while training went on.
        """
        news = elsewhere.news()
        for step, metrics in news:
            with self._placement.scope():
                self.metrics = self._callbacks.evaluate(step, lambda on_call=None: metrics)  # noqa: B023
            note(history, step, validation(metrics))
            self._has_news = True
        return bool(news)

    def _evaluated(self, on_call: Callable | None = None) -> dict[str, float]:
        self._agreement.before_run(None)  # on_test_begin may have changed the weights
        metrics = self._evaluator(on_call)
        self._agreement.after_run()
        return metrics
