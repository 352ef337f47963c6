"""From the hooks that a user gives to what the loop does."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.estimator.hooks.checkpoint_saver import CheckpointSaverHook, Listeners
from tfbig.estimator.hooks.final_ops import FinalOpsHook
from tfbig.estimator.hooks.hook import Hook
from tfbig.estimator.hooks.logging_tensor import LoggingTensorHook
from tfbig.estimator.hooks.nan_tensor import NanTensorHook
from tfbig.estimator.hooks.session_run_hook import SessionRunHookAdapter
from tfbig.estimator.hooks.step_counter import StepCounterHook
from tfbig.estimator.hooks.stop_at_step import StopAtStepHook
from tfbig.estimator.hooks.summary_saver import SummarySaverHook

_v1 = tf.compat.v1.train

_NOT_HONOURED = {
    "ProfilerHook": "keras.callbacks.TensorBoard(profile_batch=…) in callbacks=",
    "FeedFnHook": "input_fn, which gives all values",
    "GlobalStepWaiterHook": "nothing: workers start together",
}


class HookPlan(NamedTuple):
    """What hooks ask of a run.

    Attributes:
        callbacks: what the loop tells of its steps.
        num_steps, last_step: where it ends, the nearest; or None.
        savers: CheckpointSaverHooks.
    """

    callbacks: list[Any]
    num_steps: int | None
    last_step: int | None
    savers: list[CheckpointSaverHook]


def plan_hooks(
    hooks: Iterable[Any] | None, *, where: str = "hooks", spec: Any = None, listeners: Sequence = ()
) -> HookPlan:
    """Sorts hooks of tfbig, of tf.compat.v1.train and of the user.

    Args:
        hooks: as they were given.
        where: for messages.
        spec: the EstimatorSpec whose tensors they may hold, or None.
        listeners: CheckpointSaverListeners.

    Raises:
        UserError: one of them is no hook, or needs what TensorFlow 2 does not have.
    """
    if hooks is not None and not isinstance(hooks, (list, tuple)):
        raise UserError(f"{where}={hooks!r}: expected a list of hooks.")
    own = [_own(hook, where, spec) for hook in hooks or ()]
    stops = [hook for hook in own if isinstance(hook, StopAtStepHook)]
    savers = [hook for hook in own if isinstance(hook, CheckpointSaverHook)]
    listeners = [*listeners, *(listener for saver in savers for listener in saver.listeners)]
    callbacks = [h for h in own if h not in stops and h not in savers]
    return HookPlan(
        [*callbacks, *([Listeners(listeners)] if listeners else [])],
        min((h.num_steps for h in stops if h.num_steps is not None), default=None),
        min((h.last_step for h in stops if h.last_step is not None), default=None),
        savers,
    )


def _own(hook: Any, where: str, spec: Any) -> Any:
    if isinstance(hook, NanTensorHook):
        _check_watches_loss(hook, spec)
    if isinstance(hook, (StopAtStepHook, CheckpointSaverHook, keras.callbacks.Callback)):
        return hook
    if not isinstance(hook, _v1.SessionRunHook):
        raise UserError(
            f"{where} has {hook!r}, which is no hook; pass a hook of tfbig.estimator or "
            "tf.compat.v1.train, your own SessionRunHook, or a keras.callbacks.Callback."
        )
    name = type(hook).__name__
    if type(hook).__module__.startswith("tensorflow."):
        if name in _NOT_HONOURED:
            raise UserError(f"{where}: {name} is not honoured; use {_NOT_HONOURED[name]}.")
        settings = _private_api.hook_settings(hook)
        if settings is not None:
            return _own(_KINDS[name](**settings), where, spec)
    return SessionRunHookAdapter(hook, spec)


_KINDS = {
    "CheckpointSaverHook": CheckpointSaverHook,
    "FinalOpsHook": FinalOpsHook,
    "LoggingTensorHook": LoggingTensorHook,
    "NanTensorHook": NanTensorHook,
    "StepCounterHook": StepCounterHook,
    "StopAtStepHook": StopAtStepHook,
    "SummarySaverHook": SummarySaverHook,
}


def _check_watches_loss(hook: NanTensorHook, spec: Any) -> None:
    watched = hook.loss_tensor
    if watched is getattr(spec, "loss", None) and watched is not None:
        return
    if isinstance(watched, str) and watched.split(":")[0] == "loss":
        return
    raise UserError(
        f"NanTensorHook watches {getattr(watched, 'name', watched)!r}; here it watches the spec's "
        'loss: NanTensorHook("loss"), or in training_hooks the tensor that is EstimatorSpec\'s '
        "loss. For others, tf.debugging.assert_all_finite(x, message) in model_fn."
    )


class ModeHooks:
    """Hooks of an evaluation or a prediction, told of each batch.

    Args:
        hooks: of the user, for all runs of this mode.
        watched: the model_fn, whose spec may have more.
        field: which of the spec's: "evaluation_hooks" or "prediction_hooks".
        mode: of ModeKeys.
        look: of the mode.
    """

    def __init__(self, hooks: Sequence[Any] | None, watched: Any, field: str, mode: str, look: Any):
        self._given, self._watched = hooks, watched
        self._field, self._mode, self._look = field, mode, look
        self._hooks: list[Hook] | None = None

    def begin(self) -> bool:
        """Before the first batch; returns whether there are hooks at all."""
        if self._hooks is None:
            spec = self._watched.first[self._mode]
            plans = [
                plan_hooks(self._given, spec=spec),
                plan_hooks(getattr(spec, self._field, None), where=self._field, spec=spec),
            ]
            for plan in plans:
                self._refuse_others(plan)
            self._hooks = [hook for plan in plans for hook in plan.callbacks]
        for hook in self._hooks:
            hook.begin(0)
        return bool(self._hooks)

    def before(self, stack: Any, step: int) -> None:
        look = self._look.at(stack, 0, step)
        for hook in self._hooks:
            hook.before_run(step, look)

    def after(self, step: int, logs: dict[str, float]) -> None:
        for hook in self._hooks:
            hook.after_run(step, logs)

    def finish(self) -> None:
        for hook in self._hooks:
            hook.finish()

    def _refuse_others(self, plan: HookPlan) -> None:
        training = plan.savers or plan.num_steps or plan.last_step
        if training or any(not isinstance(hook, Hook) for hook in plan.callbacks):
            raise UserError(
                f"{self._field}: hooks that stop or save, and Keras callbacks, belong to training; "
                "evaluate and predict take LoggingTensorHook, FinalOpsHook, SummarySaverHook and "
                "your own SessionRunHooks (steps= says how many batches are evaluated)."
            )
