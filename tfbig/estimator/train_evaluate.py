"""train_and_evaluate: one training run with evaluations and exports at intervals."""

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
    """Trains, evaluates at fixed steps and at the end, and runs exporters after each evaluation.

    Evaluations run at multiples of RunConfig.eval_every_steps. The default is
    RunConfig.save_checkpoints_steps if it is set, otherwise once per pass over data of known
    length, otherwise every 1000 steps. Each evaluation writes a checkpoint.

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
        The results of the last evaluation, and a list of what each exporter returned at the end.

    Raises:
        UserError: an argument has an invalid value.
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
        config = config.replace(eval_every_steps=config.save_checkpoints_steps)
    delays = {n: getattr(eval_spec, n) for n in ("start_delay_secs", "throttle_secs")}
    if any(delays.values()):
        shown = ", ".join(f"{name}={value:g}" for name, value in delays.items() if value)
        log.warning(
            "EvalSpec(%s) is ignored: evaluations run at steps and not by the clock, %s; "
            "set RunConfig(eval_every_steps=…) to change them",
            shown,
            f"every {config.eval_every_steps} steps"
            if config.eval_every_steps
            else "once per pass",
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
    if after.result is None:  # an earlier process finished the training, or this is not the chief
        return {**result.metrics, "global_step": result.global_step}, []
    return after.result, after.exported


class _AfterEvaluation(Hook):
    """Writes the results of an evaluation, requests a checkpoint, and then runs the exporters."""

    def __init__(self, estimator: Estimator, spec: EvalSpec):
        super().__init__()
        self._estimator, self._spec = estimator, spec
        self.result: dict[str, Any] | None = None
        self.exported: list[str | None] = []
        self._pending: dict[int, dict[str, Any]] = {}  # by the step whose checkpoint is not written
        self._ending = False
        self._step = 0

    def after_run(self, step: int, logs: dict[str, float]) -> None:
        self._step = step

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        # An evaluator task has written plain numbers only.
        values = self.model.metric_values if step >= self._step else {}
        metrics = {"loss": metrics["loss"], **values} if values else metrics
        self.result = {**metrics, "global_step": step}
        write_eval_metrics(self._estimator.eval_dir(self._spec.name), step, self.result)
        if step < self._step:  # an evaluator task has evaluated an earlier checkpoint
            self._export_earlier(step)
        else:
            self.save_now = True
            self._pending[step] = self.result

    def finish(self) -> None:
        self._ending = True

    def on_checkpoint(self, step: int, path: str) -> None:
        if self._ending:
            if self.result is not None and self.result["global_step"] == step:
                self._export(path, self.result)
            return
        result = self._pending.pop(step, None)
        if result is not None and not self._is_last(step):
            self._export(path, result)

    def _export(self, path: str, result: dict[str, Any]) -> None:
        exporters = self._spec.exporters
        self.exported = run_exporters(exporters, self._estimator, path, result, self._ending)

    def _export_earlier(self, step: int) -> None:
        path = folder_of(self._estimator.model_dir, step)
        if not os.path.isdir(path):
            log.info("the checkpoint of step %d was deleted before it could be exported", step)
            return
        self._export(path, self.result)

    def _is_last(self, step: int) -> bool:
        """Whether training ends here; this step is then saved and exported once more at the end."""
        ends = self.model.stop_training or step == self.run.max_steps
        return ends and step == self._step
