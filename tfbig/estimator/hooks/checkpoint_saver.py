"""CheckpointSaverHook and its listeners: when checkpoints are written, and who hears of it."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook
from tfbig.estimator.hooks.no_session import NoSession


class CheckpointSaverListener:
    """Hears of every checkpoint; a subclass overrides what it needs.

    There is no session: what is passed as such answers any use of it with an error that says what
    to use instead. `tf.compat.v1.train.CheckpointSaverListener` may be subclassed as well.
    """

    def begin(self) -> None:
        """Before the first step."""

    def before_save(self, session: Any, global_step_value: int) -> None:
        """Before a checkpoint is written."""

    def after_save(self, session: Any, global_step_value: int) -> bool | None:
        """After it was written; True ends training."""

    def end(self, session: Any, global_step_value: int) -> None:
        """After the last step."""


class CheckpointSaverHook(tf.compat.v1.train.SessionRunHook):
    """Sets when checkpoints are written, in the place of RunConfig's fields.

    Example:

        estimator.train(input_fn, hooks=[tfbig.estimator.CheckpointSaverHook(
            estimator.model_dir, save_steps=500, listeners=[MyListener()])])

    Args:
        checkpoint_dir: the Estimator's model_dir.
        save_secs, save_steps: one of them.
        listeners: CheckpointSaverListeners.
        saver, checkpoint_basename, scaffold, save_graph_def: TensorFlow 1's; refused but for
            their defaults.

    Raises:
        UserError: something given cannot be used.
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
                    f"CheckpointSaverHook({name}=…) is not honoured: checkpoints are tfbig's own, "
                    "of all variables; leave it out. RunConfig(keep_checkpoint_max=…) says how "
                    "many are kept."
                )
        self.checkpoint_dir, self.listeners = checkpoint_dir, list(listeners or [])
        self.save_secs, self.save_steps = save_secs, save_steps


class Listeners(Hook):
    """Tells CheckpointSaverListeners of the loop's checkpoints.

    Args:
        listeners: of tfbig or tf.compat.v1.train.
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

    def begin(self, step: int) -> None:
        self._step = step
        self._tell(lambda listener: listener.begin())

    def after_run(self, step: int, logs: dict[str, float]) -> None:
        self._step = step

    def on_saving(self, step: int) -> None:
        self._tell(lambda listener: listener.before_save(self._session, step))

    def on_checkpoint(self, step: int, path: str) -> None:
        for listener in self._listeners:
            if listener.after_save(self._session, step):
                self.model.stop_training = True

    def finish(self) -> None:
        self._tell(lambda listener: listener.end(self._session, self._step))

    def _tell(self, how: Callable[[Any], Any]) -> None:
        for listener in self._listeners:
            how(listener)
