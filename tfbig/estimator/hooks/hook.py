"""The base class of hooks: told of runs, in training, evaluation and prediction alike."""

from collections.abc import Callable
from typing import Any

from tfbig.errors import UserError
from tfbig.training.callbacks.callback import LoopCallback


class Hook(LoopCallback):
    """Told before and after each run: a call of the loop, or a batch in EVAL and PREDICT mode.

    A run of training has many steps, but none where `stop_every` makes it end.
    """

    def begin(self, step: int) -> None:
        """Before the first run; `step` is the global step, or 0 outside of training."""

    def before_run(self, step: int, look: Callable[[Any], Any]) -> None:
        """Before a run; `look` as for `LoopCallback.on_call_begin`."""

    def after_run(self, step: int, logs: dict[str, float]) -> None:
        """After a run: the number of finished steps, and the loss where there is one."""

    def finish(self) -> None:
        """After the last run."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.begin(self.run.start_step)

    def on_call_begin(self, step: int, look: Callable[[Any], Any]) -> None:
        self.before_run(step, look)

    def on_calls(self, step: int, logs: dict[str, float]) -> None:
        self.after_run(step, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.finish()


class Timer:
    """When something is due: every so many steps or seconds, and at the first run.

    Args:
        owner: the hook's name, for errors.
        every_steps, every_secs: one of them.
        names: of the hook's arguments.

    Raises:
        UserError: neither or both are given, or it is no number above 0.
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
        self._step: int | None = None
        self._time = 0.0

    def due(self, step: int) -> bool:
        """Whether it is due at a step; then it is counted as done."""
        if self._step is not None:
            if self.steps is not None and step < self._step + self.steps:
                return False
            if self.steps is None and self._clock() < self._time + self._secs:
                return False
        self._step, self._time = step, self._clock()
        return True
