"""Translates the hooks of a user into callbacks and settings of the loop."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.estimator.hooks.checkpoint_saver import CheckpointListenersHook, CheckpointSaverHook
from tfbig.estimator.hooks.final_ops import FinalOpsHook
from tfbig.estimator.hooks.hook import Hook
from tfbig.estimator.hooks.logging_tensor import LoggingTensorHook
from tfbig.estimator.hooks.nan_tensor import NanTensorHook
from tfbig.estimator.hooks.session_run_hook import SessionRunHookAdapter
from tfbig.estimator.hooks.step_counter import StepCounterHook
from tfbig.estimator.hooks.stop_at_step import StopAtStepHook
from tfbig.estimator.hooks.summary_saver import SummarySaverHook

_v1 = tf.compat.v1.train

_UNSUPPORTED = {
    "ProfilerHook": "keras.callbacks.TensorBoard(profile_batch=…) in callbacks=",
    "FeedFnHook": "input_fn, which returns all inputs",
    "GlobalStepWaiterHook": "nothing: workers start together",
}


class HookPlan(NamedTuple):
    """What the hooks of a run set.

    Attributes:
        callbacks: the hooks that the loop calls.
        num_steps, last_step: the smallest limits of the StopAtStepHooks; or None.
        savers: the CheckpointSaverHooks.
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
        hooks: the hooks as given by the user.
        where: the argument's name, for error messages.
        spec: the EstimatorSpec whose tensors the hooks may use, or None.
        listeners: further CheckpointSaverListeners.

    Raises:
        UserError: one of them is not a hook, or needs something that TensorFlow 2 lacks.
    """
    if hooks is not None and not isinstance(hooks, (list, tuple)):
        raise UserError(f"{where}={hooks!r}: expected a list of hooks.")
    translated = [_translate(hook, where, spec) for hook in hooks or ()]
    stops = [hook for hook in translated if isinstance(hook, StopAtStepHook)]
    savers = [hook for hook in translated if isinstance(hook, CheckpointSaverHook)]
    listeners = [*listeners, *(listener for saver in savers for listener in saver.listeners)]
    callbacks = [h for h in translated if h not in stops and h not in savers]
    return HookPlan(
        [*callbacks, *([CheckpointListenersHook(listeners)] if listeners else [])],
        min((h.num_steps for h in stops if h.num_steps is not None), default=None),
        min((h.last_step for h in stops if h.last_step is not None), default=None),
        savers,
    )


def _translate(hook: Any, where: str, spec: Any) -> Any:
    if isinstance(hook, NanTensorHook):
        _check_watches_loss(hook, spec)
    if isinstance(hook, (StopAtStepHook, CheckpointSaverHook, keras.callbacks.Callback)):
        return hook
    if not isinstance(hook, _v1.SessionRunHook):
        raise UserError(
            f"{where} has {hook!r}, which is not a hook; pass a hook of tfbig.estimator or "
            "tf.compat.v1.train, your own SessionRunHook, or a keras.callbacks.Callback."
        )
    name = type(hook).__name__
    if type(hook).__module__.startswith("tensorflow."):
        if name in _UNSUPPORTED:
            raise UserError(f"{where}: {name} is not supported; use {_UNSUPPORTED[name]}.")
        settings = _private_api.hook_settings(hook)
        if settings is not None:
            return _translate(_KINDS[name](**settings), where, spec)
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
        f"NanTensorHook watches {getattr(watched, 'name', watched)!r}; it can only watch the "
        'loss of the spec: NanTensorHook("loss"), or in training_hooks the tensor that is '
        "EstimatorSpec's loss. For other tensors, use tf.debugging.assert_all_finite(x, message) "
        "in model_fn."
    )


class ModeHooks:
    """Calls the hooks of an evaluation or a prediction before and after each batch.

    Args:
        hooks: the hooks that the user passed to `evaluate` or `predict`.
        watched: the model_fn, whose spec may have further hooks.
        field: the field of the spec: "evaluation_hooks" or "prediction_hooks".
        mode: ModeKeys.EVAL or PREDICT.
        fetcher: computes the tensors that hooks fetch, in this mode.
    """

    def __init__(
        self, hooks: Sequence[Any] | None, watched: Any, field: str, mode: str, fetcher: Any
    ):
        self._user_hooks, self._watched = hooks, watched
        self._field, self._mode, self._fetcher = field, mode, fetcher
        self._hooks: list[Hook] | None = None

    def begin(self) -> bool:
        """Starts the hooks before the first batch; returns whether there are any hooks."""
        if self._hooks is None:
            spec = self._watched.first[self._mode]
            plans = [
                plan_hooks(self._user_hooks, spec=spec),
                plan_hooks(getattr(spec, self._field, None), where=self._field, spec=spec),
            ]
            for plan in plans:
                self._check_plan(plan)
            self._hooks = [hook for plan in plans for hook in plan.callbacks]
        for hook in self._hooks:
            hook.begin(0)
        return bool(self._hooks)

    def before(self, stack: Any, step: int) -> None:
        """Calls the hooks before a batch.

        Args:
            stack: the batch, as the first one of a stack of batches.
            step: the number of finished batches.
        """
        fetch = self._fetcher.at(stack, 0, step)
        for hook in self._hooks:
            hook.before_run(step, fetch)

    def after(self, step: int, logs: dict[str, float]) -> None:
        """Calls the hooks after a batch; `step` counts it, `logs` has its loss if known."""
        for hook in self._hooks:
            hook.after_run(step, logs)

    def finish(self) -> None:
        """Calls the hooks after the last batch."""
        for hook in self._hooks:
            hook.finish()

    def _check_plan(self, plan: HookPlan) -> None:
        training = plan.savers or plan.num_steps or plan.last_step
        if training or any(not isinstance(hook, Hook) for hook in plan.callbacks):
            raise UserError(
                f"{self._field}: hooks that stop or save, and Keras callbacks, belong to training; "
                "evaluate and predict take LoggingTensorHook, FinalOpsHook, SummarySaverHook and "
                "your own SessionRunHooks (steps= limits the number of batches)."
            )
