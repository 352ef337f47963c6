"""CheckpointSaverHook and CheckpointSaverListener: when to save, and what to run around it."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook, NoSession


class CheckpointSaverListener:
    """Called before and after each checkpoint; a subclass overrides the methods that it needs.

    There is no session: any use of the `session` argument raises an error that says what to use
    instead. Subclasses of `tf.compat.v1.train.CheckpointSaverListener` are accepted as well.
    """

    def begin(self) -> None:
        """Called before the first step."""

    def before_save(self, session: Any, global_step_value: int) -> None:
        """Called before a checkpoint is written."""

    def after_save(self, session: Any, global_step_value: int) -> bool | None:
        """Called after a checkpoint was written; return True to end training."""

    def end(self, session: Any, global_step_value: int) -> None:
        """Called after the last step."""


class CheckpointSaverHook(tf.compat.v1.train.SessionRunHook):
    """Sets when checkpoints are written, instead of the fields of RunConfig.

    Example:

        estimator.train(input_fn, hooks=[tfbig.estimator.CheckpointSaverHook(
            estimator.model_dir, save_steps=500, listeners=[MyListener()])])

    Args:
        checkpoint_dir: the Estimator's model_dir.
        save_secs, save_steps: seconds or steps between two checkpoints; exactly one of them.
        listeners: CheckpointSaverListeners, called for each checkpoint.
        saver, checkpoint_basename, scaffold, save_graph_def: only the defaults are accepted.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        checkpoint_dir: str,
        save_secs: float | None = None,
        save_steps: int | None = None,
        saver: Any = None,
        checkpoint_basename: str = "model.ckpt",
        scaffold: Any = None,
        listeners: Sequence[Any] | None = None,
        save_graph_def: bool = True,
    ):
        if (save_secs is None) == (save_steps is None):
            raise UserError(
                "CheckpointSaverHook: exactly one of save_secs and save_steps should be provided; "
                f"received {save_secs!r} and {save_steps!r}."
            )
        given = {
            "saver": saver is not None,
            "scaffold": scaffold is not None,
            "checkpoint_basename": checkpoint_basename != "model.ckpt",
            "save_graph_def": save_graph_def is not True,
        }
        for name, is_given in given.items():
            if is_given:
                raise UserError(
                    f"CheckpointSaverHook({name}=…) is not supported: checkpoints have tfbig's "
                    "own format and hold all variables; leave it out. "
                    "RunConfig(keep_checkpoint_max=…) sets how many are kept."
                )
        self.checkpoint_dir, self.listeners = checkpoint_dir, list(listeners or [])
        self.save_secs, self.save_steps = save_secs, save_steps


class CheckpointListenersHook(Hook):
    """Calls CheckpointSaverListeners around the checkpoints of the loop.

    Args:
        listeners: listeners of tfbig or tf.compat.v1.train.
    """

    def __init__(self, listeners: Sequence[Any]):
        super().__init__()
        for listener in listeners:
            for method in ("begin", "before_save", "after_save", "end"):
                if not callable(getattr(listener, method, None)):
                    raise UserError(
                        f"saving_listeners has {listener!r}, which has no {method}; subclass "
                        "tfbig.estimator.CheckpointSaverListener."
                    )
        self._listeners = list(listeners)
        self._session = NoSession("a CheckpointSaverListener")
        self._step = 0

    @override
    def begin(self, step: int) -> None:
        self._step = step
        self._call_each(lambda listener: listener.begin())

    @override
    def after_run(self, step: int, logs: dict[str, float]) -> None:
        self._step = step

    @override
    def on_saving(self, step: int) -> None:
        self._call_each(lambda listener: listener.before_save(self._session, step))

    @override
    def on_checkpoint(self, step: int, path: str) -> None:
        for listener in self._listeners:
            if listener.after_save(self._session, step):
                self.model.stop_training = True

    @override
    def finish(self) -> None:
        self._call_each(lambda listener: listener.end(self._session, self._step))

    def _call_each(self, function: Callable[[Any], Any]) -> None:
        for listener in self._listeners:
            function(listener)
