"""LoggingTensorHook: prints the values of tensors."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook, Timer

log = logging.getLogger("tfbig")


class LoggingTensorHook(Hook):
    """Logs tensors of model_fn every so many runs, as the step that comes next computes them.

    Example:

        hook = tfbig.estimator.LoggingTensorHook({"loss": "loss", "p": "softmax_tensor"}, 50)
        estimator.train(input_fn, hooks=[hook], steps=1000)

    Args:
        tensors: dict of tensors or names by what they are called in the log; or a list of them.
        every_n_iter: steps (in EVAL and PREDICT mode: batches) between two lines.
        every_n_secs: or seconds.
        at_end: log once more at the end; alone, only then.
        formatter: from the dict of values to the line.
        clock: function that returns seconds, for tests.

    Raises:
        UserError: none or several of every_n_iter, every_n_secs and at_end say when.
    """

    def __init__(
        self,
        tensors: Mapping[str, Any] | Iterable[Any],
        every_n_iter: int | None = None,
        every_n_secs: float | None = None,
        at_end: bool = False,
        formatter: Callable[[dict], str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        only_at_end = at_end and every_n_iter is None and every_n_secs is None
        names = ("every_n_iter", "every_n_secs")
        self._timer = None
        if not only_at_end:
            self._timer = Timer("LoggingTensorHook", every_n_iter, every_n_secs, names, clock=clock)
            self.stop_every = self._timer.steps
        if not isinstance(tensors, Mapping):
            tensors = {getattr(tensor, "name", tensor): tensor for tensor in tensors}
        if not tensors:
            raise UserError("LoggingTensorHook(tensors=…): expected at least one tensor.")
        self.tensors = dict(tensors)
        self._formatter, self._at_end, self._clock = formatter, at_end, clock
        self._last_look: Callable | None = None
        self._last_time: float | None = None

    def begin(self, step: int) -> None:
        if self._timer is not None:
            self._timer.reset()
        self._last_look = self._last_time = None

    def before_run(self, step: int, look: Callable[[Any], Any]) -> None:
        self._last_look = look
        if self._timer is not None and self._timer.due(step):
            self._log(look)

    def finish(self) -> None:
        if self._at_end and self._last_look is not None:
            self._log(self._last_look)
        self._last_look = None

    def _log(self, look: Callable[[Any], Any]) -> None:
        values = look(self.tensors)
        now = self._clock()
        seconds = None if self._last_time is None else now - self._last_time
        self._last_time = now
        if self._formatter is not None:
            log.info("%s", self._formatter(values))
            return
        with np.printoptions(suppress=True):
            line = ", ".join(f"{name} = {values[name]}" for name in self.tensors)
        log.info("%s%s", line, "" if seconds is None else f" ({seconds:.3f} sec)")
