"""The options of a run that the hooks and the scaffold of an EstimatorSpec set."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.estimator.hooks.checkpoint_saver import CheckpointSaverHook
from tfbig.estimator.hooks.hook import NoSession
from tfbig.estimator.hooks.translation import plan_hooks
from tfbig.training.request import RunOptions, nearest

_HOOK_FIELDS = ("training_hooks", "training_chief_hooks")
_SCAFFOLD_REPLACEMENTS = {
    "init_op": "warm_start_from= or init_fn",
    "init_feed_dict": "warm_start_from= or init_fn",
    "ready_op": "nothing: variables are always initialised",
    "ready_for_local_init_op": "nothing: variables are always initialised",
    "local_init_op": "lookup tables directly; they are filled when they are created",
    "local_init_feed_dict": "lookup tables directly; they are filled when they are created",
    "summary_op": "tf.compat.v1.summary in model_fn, or a SummarySaverHook in training_hooks",
}


def options_of_spec(spec: Any, model_dir: str | None = None) -> RunOptions:
    """Returns the options that an EstimatorSpec sets for its training run.

    Args:
        spec: the first EstimatorSpec of training.
        model_dir: the model_dir of the run.

    Raises:
        UserError: a hook or the scaffold is not supported.
    """
    plans = [
        plan_hooks(getattr(spec, field, None), where=field, spec=spec) for field in _HOOK_FIELDS
    ]
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
    """Returns how often the last of some CheckpointSaverHooks writes checkpoints.

    Args:
        savers: the hooks.
        model_dir: the model_dir of the run.

    Returns:
        (steps, seconds) between two checkpoints, one of them None; None without a hook.

    Raises:
        UserError: a hook writes to another folder than model_dir.
    """
    interval = None
    for saver in savers:
        if saver.checkpoint_dir is not None and str(saver.checkpoint_dir) != model_dir:
            raise UserError(
                f"CheckpointSaverHook(checkpoint_dir={saver.checkpoint_dir!r}): checkpoints are "
                f"written to the model_dir, {model_dir!r}; pass that."
            )
        interval = (saver.save_steps, saver.save_secs)
    return interval


class ScaffoldPlan(NamedTuple):
    """The supported settings of a tf.compat.v1.train.Scaffold.

    Attributes:
        initialize: called once before a run that has no checkpoint; or None.
        keep: the number of checkpoints to keep; None for the RunConfig's.
    """

    initialize: Any = None
    keep: int | None = None


def plan_scaffold(scaffold: Any) -> ScaffoldPlan:
    """Reads EstimatorSpec(scaffold=…).

    Raises:
        UserError: it has a setting that needs a session; the message names it.
    """
    if scaffold is None:
        return ScaffoldPlan()
    if not isinstance(scaffold, tf.compat.v1.train.Scaffold):
        raise UserError(
            f"EstimatorSpec(scaffold=…) is a {type(scaffold).__name__}; expected a "
            "tf.compat.v1.train.Scaffold, of which init_fn and the saver's max_to_keep are used."
        )
    for name, instead in _SCAFFOLD_REPLACEMENTS.items():
        if getattr(scaffold, name, None) is not None:
            raise UserError(f"EstimatorSpec(scaffold=…): {name} is not supported; use {instead}.")
    keep = None
    if isinstance(scaffold.saver, tf.compat.v1.train.Saver):
        keep = _private_api.saver_max_to_keep(scaffold.saver)
        if keep is None:
            raise UserError(
                "EstimatorSpec(scaffold=…): its saver keeps all checkpoints; set max_to_keep, or "
                "leave the saver out and use RunConfig(keep_checkpoint_max=…)."
            )
    elif scaffold.saver is not None:
        raise UserError(
            f"EstimatorSpec(scaffold=…): its saver is a {type(scaffold.saver).__name__}; leave it "
            "out; checkpoints hold all variables by name."
        )
    if scaffold.init_fn is None:
        return ScaffoldPlan(keep=keep)
    session = NoSession("the scaffold's init_fn")
    return ScaffoldPlan(lambda: scaffold.init_fn(session), keep)
