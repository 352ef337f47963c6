"""train_and_evaluate: one run with evaluations and exports on its way."""

import dataclasses
import logging
import os
from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.estimator import Estimator
from tfbig.estimator.eval_events import write_eval_metrics
from tfbig.estimator.exporters import run_exporters
from tfbig.estimator.hooks.hook import Hook
from tfbig.estimator.specs import EvalSpec, TrainSpec
from tfbig.estimator.training import Evaluation, fit
from tfbig.training.checkpoints.folders import folder_of

log = logging.getLogger("tfbig")


def train_and_evaluate(
    estimator: Estimator, train_spec: TrainSpec, eval_spec: EvalSpec
) -> tuple[dict[str, float], list[str | None]]:
    """Trains, evaluates at steps and at the end, and has exporters run after each evaluation.

    Evaluations are at multiples of RunConfig.eval_every_steps; without it, where checkpoints are
    written by steps; else after each pass over data of known length, and every 1000 steps
    otherwise. A checkpoint is written at each of them.

    Example:

        tfbig.train_and_evaluate(
            tfbig.Estimator(model_fn, "runs/iris"),
            tfbig.TrainSpec(train_input_fn, max_steps=1000),
            tfbig.EvalSpec(eval_input_fn, steps=None))

    Args:
        estimator: a tfbig.Estimator.
        train_spec: a tfbig.TrainSpec.
        eval_spec: a tfbig.EvalSpec.

    Returns:
        The last evaluation's figures, and what the exporters returned at the end.

    Raises:
        UserError: something given cannot be used.
    """
    for name, value, kind in (
        ("estimator", estimator, Estimator),
        ("train_spec", train_spec, TrainSpec),
        ("eval_spec", eval_spec, EvalSpec),
    ):
        if not isinstance(value, kind):
            raise UserError(
                f"train_and_evaluate: `{name}` must have type tfbig.{kind.__name__}; received "
                f"{type(value).__name__}."
            )
    config = estimator.config
    if config.eval_every_steps is None and config.save_checkpoints_steps is not None:
        config = dataclasses.replace(config, eval_every_steps=config.save_checkpoints_steps)
    delays = {n: getattr(eval_spec, n) for n in ("start_delay_secs", "throttle_secs")}
    if any(delays.values()):
        told = ", ".join(f"{name}={value:g}" for name, value in delays.items() if value)
        log.warning(
            "EvalSpec(%s): evaluations are at steps and not by the clock, %s; "
            "RunConfig(eval_every_steps=…) sets them",
            told,
            f"every {config.eval_every_steps} steps" if config.eval_every_steps else "each pass",
        )
    after = _AfterEvaluation(estimator, eval_spec)
    result = fit(
        estimator,
        train_spec.input_fn,
        hooks=train_spec.hooks,
        max_steps=train_spec.max_steps,
        listeners=train_spec.saving_listeners,
        evaluation=Evaluation(eval_spec.input_fn, eval_spec.steps, eval_spec.hooks, [after]),
        config=config,
    )
    if after.result is None:  # an earlier process had trained to the end, or this is no chief
        return {**result.metrics, "global_step": result.global_step}, []
    return after.result, after.exported


class _AfterEvaluation(Hook):
    """Writes an evaluation's figures, has a checkpoint written, and then runs the exporters."""

    def __init__(self, estimator: Estimator, spec: EvalSpec):
        super().__init__()
        self._estimator, self._spec = estimator, spec
        self.result: dict[str, Any] | None = None
        self.exported: list[str | None] = []
        self._waiting: dict[int, dict[str, Any]] = {}  # for the checkpoints of their steps
        self._ending = False
        self._step = 0

    def after_run(self, step: int, logs: dict[str, float]) -> None:
        self._step = step

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        self.result = {**metrics, "global_step": step}
        write_eval_metrics(self._estimator.eval_dir(self._spec.name), step, self.result)
        if step < self._step:  # by an evaluator, of a checkpoint that it has found
            self._export_earlier(step)
        else:
            self.save_now = True
            self._waiting[step] = self.result

    def finish(self) -> None:
        self._ending = True

    def on_checkpoint(self, step: int, path: str) -> None:
        if self._ending:
            if self.result is not None and self.result["global_step"] == step:
                self._export(path, self.result)
            return
        result = self._waiting.pop(step, None)
        if result is not None and not self._is_last(step):
            self._export(path, result)

    def _export(self, path: str, result: dict[str, Any]) -> None:
        exporters = self._spec.exporters
        self.exported = run_exporters(exporters, self._estimator, path, result, self._ending)

    def _export_earlier(self, step: int) -> None:
        path = folder_of(self._estimator.model_dir, step)
        if not os.path.isdir(path):
            log.info("the checkpoint of step %d is not kept any more, and not exported", step)
            return
        self._export(path, self.result)

    def _is_last(self, step: int) -> bool:
        """Whether the run ends here, so that the same step is saved, and exported, once more."""
        ends = self.model.stop_training or step == self.run.max_steps
        return ends and step == self._step
