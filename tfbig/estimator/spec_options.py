"""What the hooks and the scaffold of an EstimatorSpec ask of a run."""

from collections.abc import Sequence
from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.hooks.checkpoint_saver import CheckpointSaverHook
from tfbig.estimator.hooks.translation import plan_hooks
from tfbig.estimator.scaffold import plan_scaffold
from tfbig.training.request import RunOptions, nearest

_FIELDS = ("training_hooks", "training_chief_hooks")


def options_of_spec(spec: Any, model_dir: str | None = None) -> RunOptions:
    """What an EstimatorSpec asks of the run that it trains in.

    Args:
        spec: the first one of training.
        model_dir: of the run.

    Raises:
        UserError: one of its hooks, or its scaffold, cannot be used.
    """
    plans = [plan_hooks(getattr(spec, field, None), where=field, spec=spec) for field in _FIELDS]
    scaffold = plan_scaffold(getattr(spec, "scaffold", None))
    initializers = ()
    if scaffold.initialize is not None:
        initialize = scaffold.initialize
        initializers = (lambda program: initialize() or {},)
    return RunOptions(
        callbacks=tuple(callback for plan in plans for callback in plan.callbacks),
        num_steps=nearest(*(plan.num_steps for plan in plans)),
        last_step=nearest(*(plan.last_step for plan in plans)),
        saves=saves_of([saver for plan in plans for saver in plan.savers], model_dir),
        keep_checkpoint_max=scaffold.keep,
        initializers=initializers,
    )


def saves_of(
    savers: Sequence[CheckpointSaverHook], model_dir: str | None
) -> tuple[int | None, float | None] | None:
    """When checkpoints are written, by the last of some hooks; None: there is no hook.

    Args:
        savers: the hooks.
        model_dir: of the run.

    Returns:
        (steps, seconds) between two checkpoints, one of them None.

    Raises:
        UserError: a hook writes to another folder than model_dir.
    """
    found = None
    for saver in savers:
        if saver.checkpoint_dir is not None and str(saver.checkpoint_dir) != model_dir:
            raise UserError(
                f"CheckpointSaverHook(checkpoint_dir={saver.checkpoint_dir!r}): checkpoints are "
                f"written to the model_dir, {model_dir!r}; give that."
            )
        found = (saver.save_steps, saver.save_secs)
    return found
