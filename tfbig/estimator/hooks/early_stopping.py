"""stop_if_… hooks: training ends by what evaluations have found."""

import logging
import operator
import os
import time
from collections.abc import Callable
from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.eval_events import read_eval_metrics
from tfbig.estimator.hooks.hook import Hook, Timer

log = logging.getLogger("tfbig")


class EarlyStoppingHook(Hook):
    """Ends training when a function says so.

    It is asked after each evaluation of this process, and besides, every so many steps or
    seconds, for evaluations that another process writes.

    Args:
        should_stop_fn: returns whether to end.
        run_every_secs, run_every_steps: how often it is asked besides; one of them.
        clock: function that returns seconds, for tests.
    """

    def __init__(
        self,
        should_stop_fn: Callable[[], bool],
        run_every_secs: float | None = 60,
        run_every_steps: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        if not callable(should_stop_fn):
            raise UserError(f"`should_stop_fn` must be callable; received {should_stop_fn!r}.")
        if run_every_steps is not None:
            run_every_secs = None
        names = ("run_every_steps", "run_every_secs")
        self._timer = Timer("stop_if_… hook", run_every_steps, run_every_secs, names, clock=clock)
        self.stop_every = self._timer.steps
        self._should_stop = should_stop_fn

    def begin(self, step: int) -> None:
        self._timer.reset()
        self._timer.due(step)

    def after_run(self, step: int, logs: dict[str, float]) -> None:
        if self._timer.due(step):
            self._ask(step)

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        self._ask(step)

    def _ask(self, step: int) -> None:
        if not self.model.stop_training and self._should_stop():
            log.info("Requesting early stopping at global step %d", step)
            self.model.stop_training = True


def make_early_stopping_hook(
    estimator: Any,
    should_stop_fn: Callable[[], bool],
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """A hook that ends training when a function without arguments returns True.

    Example: `make_early_stopping_hook(estimator, lambda: os.path.exists("stop"))`

    Args:
        estimator: the tfbig.Estimator that is trained.
        should_stop_fn: asked after each evaluation, and every run_every_secs or run_every_steps.
    """
    _check_estimator(estimator)
    return EarlyStoppingHook(should_stop_fn, run_every_secs, run_every_steps)


def stop_if_higher_hook(
    estimator: Any,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """A hook that ends training when a metric of an evaluation is above a threshold.

    Example: `stop_if_higher_hook(estimator, "accuracy", 0.95)`

    Args:
        estimator: the tfbig.Estimator that is trained.
        metric_name: as `evaluate` returns it.
        threshold: to compare with.
        eval_dir: where the evaluations' events are; None: `estimator.eval_dir()`.
        min_steps: evaluations before this global step do not count.
        run_every_secs, run_every_steps: as for `make_early_stopping_hook`.
    """
    return _threshold_hook(operator.gt, **_given(locals()))


def stop_if_lower_hook(
    estimator: Any,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """A hook that ends training when a metric of an evaluation is below a threshold.

    Example: `stop_if_lower_hook(estimator, "loss", 0.1)`. Args: as for `stop_if_higher_hook`.
    """
    return _threshold_hook(operator.lt, **_given(locals()))


def stop_if_no_increase_hook(
    estimator: Any,
    metric_name: str,
    max_steps_without_increase: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """A hook that ends training when a metric has not grown for a number of steps.

    Example: `stop_if_no_increase_hook(estimator, "accuracy", 1000)`. Args: as for
    `stop_if_higher_hook`, and max_steps_without_increase: between two evaluations.
    """
    given = _given(locals())
    steps = given.pop("max_steps_without_increase")
    return _improvement_hook(operator.gt, "increase", steps, **given)


def stop_if_no_decrease_hook(
    estimator: Any,
    metric_name: str,
    max_steps_without_decrease: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """A hook that ends training when a metric has not fallen for a number of steps.

    Example: `stop_if_no_decrease_hook(estimator, "loss", 1000)`. Args: as for
    `stop_if_higher_hook`, and max_steps_without_decrease: between two evaluations.
    """
    given = _given(locals())
    steps = given.pop("max_steps_without_decrease")
    return _improvement_hook(operator.lt, "decrease", steps, **given)


def _given(arguments: dict) -> dict:
    return dict(arguments)


def _threshold_hook(
    beyond: Callable[[float, float], bool],
    estimator: Any,
    metric_name: str,
    threshold: float,
    eval_dir: str | None,
    min_steps: int,
    run_every_secs: int | None,
    run_every_steps: int | None,
) -> EarlyStoppingHook:
    folder = _folder(estimator, eval_dir)

    def should_stop() -> bool:
        for step, value in _values(folder, metric_name, min_steps):
            if beyond(value, threshold):
                log.info(
                    "At step %d, metric %r has value %g, beyond the threshold %g",
                    step, metric_name, value, threshold,
                )  # fmt: skip
                return True
        return False

    return EarlyStoppingHook(should_stop, run_every_secs, run_every_steps)


def _improvement_hook(
    better: Callable[[float, float], bool],
    direction: str,
    max_steps: int,
    estimator: Any,
    metric_name: str,
    eval_dir: str | None,
    min_steps: int,
    run_every_secs: int | None,
    run_every_steps: int | None,
) -> EarlyStoppingHook:
    folder = _folder(estimator, eval_dir)

    def should_stop() -> bool:
        best, best_step = None, 0
        for step, value in _values(folder, metric_name, min_steps):
            if best is None or better(value, best):
                best, best_step = value, step
            if step - best_step >= max_steps:
                log.info(
                    "No %s in metric %r for %d steps, which is greater than or equal to max steps "
                    "(%d) configured for early stopping",
                    direction, metric_name, step - best_step, max_steps,
                )  # fmt: skip
                return True
        return False

    return EarlyStoppingHook(should_stop, run_every_secs, run_every_steps)


def _values(folder: str, metric_name: str, min_steps: int) -> list[tuple[int, float]]:
    """(step, value) of the metric in all evaluations from a step on.

    Raises:
        UserError: evaluations have no such metric.
    """
    found = []
    for step, metrics in read_eval_metrics(folder).items():
        if metric_name not in metrics:
            raise UserError(
                f"early stopping: the evaluation at step {step} in {folder} has no metric "
                f"{metric_name!r}; it has {', '.join(sorted(metrics))}."
            )
        if step >= min_steps:
            found.append((step, metrics[metric_name]))
    return found


def _folder(estimator: Any, eval_dir: str | None) -> str:
    _check_estimator(estimator)
    return estimator.eval_dir() if eval_dir is None else os.fspath(eval_dir)


def _check_estimator(estimator: Any) -> None:
    if not callable(getattr(estimator, "eval_dir", None)):
        raise UserError(
            f"`estimator` must have type tfbig.Estimator; received {type(estimator).__name__}."
        )
