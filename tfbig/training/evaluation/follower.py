"""An evaluator task: it evaluates the checkpoints that the chief saves, and keeps the best."""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

from tfbig.errors import CheckpointError, UserError
from tfbig.placement.parameter_server.liveness import ChiefWatch
from tfbig.programs.program import Program
from tfbig.programs.vector_metrics import to_scalars
from tfbig.training.callbacks.progress import Progress
from tfbig.training.checkpoints.checkpoints import Checkpoints
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.evaluation.found_elsewhere import Evaluations
from tfbig.training.result import TrainResult, note, validation

log = logging.getLogger("tfbig")

_CHECK_EVERY = 1.0  # seconds between two looks at the model_dir


class Follower:
    """Follows the checkpoints in a model_dir until the run that writes them has ended.

    Args:
        checkpoints: of the model_dir.
        variables: of the program, by name.
        model: the keras.Model that they belong to, or None.
        evaluate: returns the metrics with the variables as they are.
        watch: of the chief.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        variables: dict,
        model: Any,
        evaluate: Callable[[], dict[str, float]],
        watch: ChiefWatch,
    ):
        self._checkpoints, self._variables, self._model = checkpoints, variables, model
        self._evaluate, self._watch = evaluate, watch
        self._evaluations = Evaluations(checkpoints.model_dir)
        self._progress = Progress()

    def run(self) -> TrainResult:
        """Returns when the last checkpoint of the run has been evaluated."""
        done = {step: metrics for step, metrics in self._evaluations.read()}
        history: list[dict[str, float]] = []
        for step, metrics in done.items():
            note(history, step, validation(metrics))
        began = time.time()
        damaged: set[int] = set()
        while True:
            newest = self._checkpoints.metadata()
            step = newest[0] if newest else None
            if step is not None and step not in done and step not in damaged:
                found = self._evaluated(step)
                if (
                    found is not None and found[0] != step
                ):  # an older one, since this one cannot be read
                    damaged.add(step)
                if found is not None and found[0] not in done:
                    step, metrics, path = found
                    self._keep_if_best(step, metrics, path)
                    self._evaluations.add(step, metrics)
                    done[step] = metrics
                    note(history, step, validation(metrics))
                    self._progress.on_evaluate(step, to_scalars(metrics))
                continue
            ended = step in done and newest[1]["loop"]["ended"] is not None
            # The checkpoint may be of an earlier run, which the chief is about to resume.
            if ended and (self._checkpoints.saved_at(step) >= began or self._watch.has_left):
                return TrainResult(
                    global_step=step,
                    metrics=done[step],
                    history=history,
                    model_dir=self._checkpoints.model_dir,
                )
            self._watch.check()
            time.sleep(_CHECK_EVERY)

    def _evaluated(self, newest: int) -> tuple[int, dict[str, float], str] | None:
        """Evaluates the newest checkpoint.

        Args:
            newest: its step, as it was read just before.

        Returns:
            Its step, metrics and path; None: the chief has removed it.
        """
        try:
            restored = self._checkpoints.restore(self._variables, lambda metadata: {})
        except CheckpointError as error:
            if newest in self._checkpoints.steps():
                raise
            log.debug("%s", error)
            return None
        if restored is None:
            return None
        return restored.step, self._evaluate(), restored.path

    def _keep_if_best(self, step: int, metrics: dict, path: str) -> None:
        """Keeps the checkpoint, and the model, with the smallest loss in model_dir/best."""
        best = os.path.join(self._checkpoints.model_dir, "best")
        before = f"{best}.before"
        if os.path.isdir(before):  # a process was killed between the renames below
            if not os.path.isdir(best):
                os.rename(before, best)
            shutil.rmtree(before, ignore_errors=True)
        if not metrics["loss"] < _loss_in(best):  # NaN is never smaller
            return
        temporary = f"{best}.tmp-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            shutil.copytree(path, os.path.join(temporary, "checkpoints", os.path.basename(path)))
        except OSError as error:  # the chief has removed it
            log.warning("the best checkpoint, of step %d, cannot be kept: %s", step, error)
            shutil.rmtree(temporary, ignore_errors=True)
            return
        if self._model is not None:
            self._model.save(os.path.join(temporary, "model.keras"))
        with open(os.path.join(temporary, "best.json"), "w") as file:
            json.dump({"step": step, "metrics": metrics}, file)
        if os.path.isdir(best):
            os.rename(best, before)
        os.rename(temporary, best)
        shutil.rmtree(before, ignore_errors=True)


def _loss_in(best: str) -> float:
    """The loss of what is kept as the best; infinity if there is nothing."""
    try:
        with open(os.path.join(best, "best.json")) as file:
            return json.load(file)["metrics"]["loss"]
    except FileNotFoundError:
        return math.inf


def follow(
    watch: ChiefWatch, program: Program, evaluator: Evaluator | None, checkpoints: Checkpoints
) -> TrainResult:
    """Evaluates the checkpoints of a run until it has ended.

    Args:
        watch: raises an error when the chief is lost.
        program: built, on this task's device.
        evaluator: None: there is no eval_input_fn.
        checkpoints: of its model_dir.

    Raises:
        UserError: there is nothing to follow, or nothing to evaluate on.
        PeerLost: the chief is lost.
    """
    if evaluator is None or checkpoints.model_dir is None:
        missing = "eval_input_fn" if evaluator is None else "model_dir"
        raise UserError(
            f"this task is the evaluator of its cluster, which needs {missing}; give it, or start "
            "no evaluator."
        )
    variables = program.named_variables()
    return Follower(checkpoints, variables, program.model, evaluator, watch).run()
