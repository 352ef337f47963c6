"""InMemoryEvaluatorHook: evaluations during `train`, with the variables of the training."""

from collections.abc import Callable, Sequence
from typing import Any

from tfbig.arguments import check_callable, check_count
from tfbig.errors import UserError
from tfbig.estimator.eval_events import write_eval_metrics
from tfbig.estimator.hooks.hook import Hook


class InMemoryEvaluatorHook(Hook):
    """Evaluates during `Estimator.train`, every few steps and at the end.

    Example:

        hook = tfbig.estimator.experimental.InMemoryEvaluatorHook(
            estimator, eval_input_fn, every_n_iter=500)
        estimator.train(train_input_fn, hooks=[hook], max_steps=5000)

    Args:
        estimator: the Estimator that is trained.
        input_fn, steps, hooks, name: as for its `evaluate`.
        every_n_iter: steps between two evaluations.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        estimator: Any,
        input_fn: Callable,
        steps: int | None = None,
        hooks: Sequence[Any] | None = None,
        name: str | None = None,
        every_n_iter: int = 100,
    ):
        super().__init__()
        check_callable("input_fn", input_fn)
        check_count("steps", steps)
        if every_n_iter is None:
            raise UserError("InMemoryEvaluatorHook(every_n_iter=None): expected 1 or more.")
        check_count("every_n_iter", every_n_iter)
        self.estimator, self.input_fn, self.steps, self.hooks = estimator, input_fn, steps, hooks
        self.name, self.every_n_iter = name, every_n_iter

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the results of an evaluation to the Estimator's eval_dir."""
        metrics = {"loss": metrics["loss"], **self.model.metric_values}
        write_eval_metrics(self.estimator.eval_dir(self.name), step, metrics)
