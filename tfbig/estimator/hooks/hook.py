"""Hook: the base class of hooks, in training, evaluation and prediction."""

from collections.abc import Callable
from typing import Any, NoReturn

from typing_extensions import override

from tfbig.errors import UserError
from tfbig.training.callbacks.callback import LoopCallback


class Hook(LoopCallback):
    """Called before and after each run.

    In training, a run is one call of the loop function, which executes several steps; `stop_every`
    limits them. In EVAL and PREDICT mode, a run is one batch.
    """

    def begin(self, step: int) -> None:
        """Called before the first run; `step` is the global step, or 0 outside training."""

    def before_run(self, step: int, fetch: Callable[[Any], Any]) -> None:
        """Called before a run; `fetch` as for `LoopCallback.on_call_begin`."""

    def after_run(self, step: int, logs: dict[str, float]) -> None:
        """Called after a run with the number of finished steps, and the loss if there is one."""

    def finish(self) -> None:
        """Called after the last run."""

    @override
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.begin(self.run.start_step)

    @override
    def on_call_begin(self, step: int, fetch: Callable[[Any], Any]) -> None:
        self.before_run(step, fetch)

    @override
    def on_calls(self, step: int, logs: dict[str, float]) -> None:
        self.after_run(step, logs)

    @override
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.finish()


class Timer:
    """Tells when a hook is due: at the first run, then every N steps or N seconds.

    Args:
        owner: the hook's name, for error messages.
        every_steps, every_secs: the interval; exactly one of them.
        names: the names of these two arguments in the hook's constructor.
        clock: returns the time in seconds.

    Raises:
        UserError: neither or both are given, or the interval is not a number above 0.
    """

    def __init__(
        self,
        owner: str,
        every_steps: Any,
        every_secs: Any,
        names: tuple[str, str],
        *,
        clock: Callable[[], float],
    ):
        if (every_steps is None) == (every_secs is None):
            raise UserError(
                f"{owner}: exactly one of {names[0]} and {names[1]} should be provided; received "
                f"{every_steps!r} and {every_secs!r}."
            )
        for name, value in zip(names, (every_steps, every_secs), strict=True):
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise UserError(f"{owner}({name}={value!r}): expected a number above 0.")
        self.steps = None if every_steps is None else int(every_steps)
        self._secs, self._clock = every_secs, clock
        self.reset()

    def reset(self) -> None:
        """Makes the hook due at the next run, as at the start of training."""
        self._step: int | None = None
        self._time = 0.0

    def due(self, step: int) -> bool:
        """Returns whether the hook is due at a step; if so, a new interval begins."""
        if self._step is not None:
            if self.steps is not None and step < self._step + self.steps:
                return False
            if self.steps is None and self._clock() < self._time + self._secs:
                return False
        self._step, self._time = step, self._clock()
        return True


class NoSession:
    """Stands for a tf.compat.v1.Session and raises an error on any use.

    Args:
        who: the code that received it, for the error message, such as "the hook MyHook".
    """

    def __init__(self, who: str):
        object.__setattr__(self, "_who", who)

    def __getattr__(self, name: str) -> NoReturn:
        raise UserError(
            f"{object.__getattribute__(self, '_who')} uses session.{name}, but TensorFlow 2 has no "
            "session. To get tensors of a step, return "
            "tf.compat.v1.train.SessionRunArgs(tensors of the spec, or their names) from "
            "before_run. To get a variable, call estimator.get_variable_value(name). To run code "
            "at the end of training, write a tfbig.callbacks.LoopCallback."
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        self.__getattr__(name)
