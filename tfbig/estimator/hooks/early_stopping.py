"""The stop_if_… hooks: end training depending on the results of evaluations."""

import logging
import operator
import os
import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.eval_events import read_eval_metrics
from tfbig.estimator.hooks.hook import Hook, Timer

log = logging.getLogger("tfbig")


class EarlyStoppingHook(Hook):
    """Ends training when a function returns True.

    The function is called after each evaluation of this process. It is also called at intervals,
    because another process may write evaluations.

    Args:
        should_stop_fn: returns whether to end training.
        run_every_secs, run_every_steps: the interval; run_every_steps wins if both are set.
        clock: returns the time in seconds; for tests.
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

    @override
    def begin(self, step: int) -> None:
        self._timer.reset()
        self._timer.due(step)

    @override
    def after_run(self, step: int, logs: dict[str, float]) -> None:
        if self._timer.due(step):
            self._check(step)

    @override
    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        self._check(step)

    def _check(self, step: int) -> None:
        if not self.model.stop_training and self._should_stop():
            log.info("Requesting early stopping at global step %d", step)
            self.model.stop_training = True


def make_early_stopping_hook(
    estimator: Any,
    should_stop_fn: Callable[[], bool],
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """Returns a hook that ends training when a function without arguments returns True.

    Example: `make_early_stopping_hook(estimator, lambda: os.path.exists("stop"))`

    Args:
        estimator: the tfbig.Estimator that is trained.
        should_stop_fn: called after each evaluation, and at the interval.
        run_every_secs, run_every_steps: the interval in seconds or steps; run_every_steps wins if
            both are set.
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
    """Returns a hook that ends training when a metric of an evaluation is above a threshold.

    Example: `stop_if_higher_hook(estimator, "accuracy", 0.95)`

    Args:
        estimator: the tfbig.Estimator that is trained.
        metric_name: a key of the dict that `evaluate` returns.
        threshold: the value to compare the metric with.
        eval_dir: the folder of the evaluations' events; None for `estimator.eval_dir()`.
        min_steps: evaluations before this global step are ignored.
        run_every_secs, run_every_steps: as for `make_early_stopping_hook`.
    """
    return _threshold_hook(operator.gt, **locals())


def stop_if_lower_hook(
    estimator: Any,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """Returns a hook that ends training when a metric of an evaluation is below a threshold.

    Example: `stop_if_lower_hook(estimator, "loss", 0.1)`. The arguments are those of
    `stop_if_higher_hook`.
    """
    return _threshold_hook(operator.lt, **locals())


def stop_if_no_increase_hook(
    estimator: Any,
    metric_name: str,
    max_steps_without_increase: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """Returns a hook that ends training when a metric has not increased for a number of steps.

    Example: `stop_if_no_increase_hook(estimator, "accuracy", 1000)`. The other
    arguments are those of `stop_if_higher_hook`.

    Args:
        max_steps_without_increase: the number of steps since the best evaluation.
    """
    arguments = dict(locals())
    steps = arguments.pop("max_steps_without_increase")
    return _improvement_hook(operator.gt, "increase", steps, **arguments)


def stop_if_no_decrease_hook(
    estimator: Any,
    metric_name: str,
    max_steps_without_decrease: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> EarlyStoppingHook:
    """Returns a hook that ends training when a metric has not decreased for a number of steps.

    Example: `stop_if_no_decrease_hook(estimator, "loss", 1000)`. The other
    arguments are those of `stop_if_higher_hook`.

    Args:
        max_steps_without_decrease: the number of steps since the best evaluation.
    """
    arguments = dict(locals())
    steps = arguments.pop("max_steps_without_decrease")
    return _improvement_hook(operator.lt, "decrease", steps, **arguments)


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
    """Returns (step, value) of the metric in all evaluations from `min_steps` on.

    Raises:
        UserError: an evaluation has no such metric.
    """
    values = []
    for step, metrics in read_eval_metrics(folder).items():
        if metric_name not in metrics:
            raise UserError(
                f"early stopping: the evaluation at step {step} in {folder} has no metric "
                f"{metric_name!r}; it has {', '.join(sorted(metrics))}."
            )
        if step >= min_steps:
            values.append((step, metrics[metric_name]))
    return values


def _folder(estimator: Any, eval_dir: str | None) -> str:
    _check_estimator(estimator)
    return estimator.eval_dir() if eval_dir is None else os.fspath(eval_dir)


def _check_estimator(estimator: Any) -> None:
    if not callable(getattr(estimator, "eval_dir", None)):
        raise UserError(
            f"`estimator` must have type tfbig.Estimator; received {type(estimator).__name__}."
        )
