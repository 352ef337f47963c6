"""What a tf.compat.v1.train.Scaffold can mean here: its init_fn, and how many checkpoints stay."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.estimator.hooks.no_session import NoSession

_INSTEAD = {
    "init_op": "warm_start_from= or init_fn",
    "init_feed_dict": "warm_start_from= or init_fn",
    "ready_op": "nothing: variables are always initialised",
    "ready_for_local_init_op": "nothing: variables are always initialised",
    "local_init_op": "lookup tables as they are, which are filled when they are made",
    "local_init_feed_dict": "lookup tables as they are, which are filled when they are made",
    "summary_op": "tf.compat.v1.summary in model_fn, or a SummarySaverHook in training_hooks",
}


class ScaffoldPlan(NamedTuple):
    """What is left of a scaffold.

    Attributes:
        initialize: called once before a run that has no checkpoint; or None.
        keep: how many checkpoints stay; or None: as RunConfig says.
    """

    initialize: Any = None
    keep: int | None = None


def plan_scaffold(scaffold: Any) -> ScaffoldPlan:
    """Reads EstimatorSpec(scaffold=…).

    Raises:
        UserError: it has what a session is needed for; the message names it.
    """
    if scaffold is None:
        return ScaffoldPlan()
    if not isinstance(scaffold, tf.compat.v1.train.Scaffold):
        raise UserError(
            f"EstimatorSpec(scaffold=…) is a {type(scaffold).__name__}; expected a "
            "tf.compat.v1.train.Scaffold, of which init_fn and the saver's max_to_keep are used."
        )
    for name, instead in _INSTEAD.items():
        if getattr(scaffold, name, None) is not None:
            raise UserError(f"EstimatorSpec(scaffold=…): {name} is not honoured; use {instead}.")
    keep = None
    if isinstance(scaffold.saver, tf.compat.v1.train.Saver):
        keep = _private_api.saver_max_to_keep(scaffold.saver)
        if keep is None:
            raise UserError(
                "EstimatorSpec(scaffold=…): its saver keeps all checkpoints; give max_to_keep, or "
                "leave the saver out and write RunConfig(keep_checkpoint_max=…)."
            )
    elif scaffold.saver is not None:
        raise UserError(
            f"EstimatorSpec(scaffold=…): its saver is a {type(scaffold.saver).__name__}; leave it "
            "out: checkpoints hold all variables by name."
        )
    if scaffold.init_fn is None:
        return ScaffoldPlan(keep=keep)
    session = NoSession("the scaffold's init_fn")
    return ScaffoldPlan(lambda: scaffold.init_fn(session), keep)
