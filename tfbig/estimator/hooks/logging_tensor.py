"""LoggingTensorHook: logs the values of tensors."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook, Timer

log = logging.getLogger("tfbig")


class LoggingTensorHook(Hook):
    """Logs tensors of model_fn at intervals, with the values that the next step computes.

    Example:

        hook = tfbig.estimator.LoggingTensorHook({"loss": "loss", "p": "softmax_tensor"}, 50)
        estimator.train(input_fn, hooks=[hook], steps=1000)

    Args:
        tensors: a dict from names in the log to tensors or tensor names; or a list of tensors or
            tensor names.
        every_n_iter: the number of steps (in EVAL and PREDICT mode: batches) between two lines.
        every_n_secs: the number of seconds between two lines, instead of every_n_iter.
        at_end: also log at the end; without an interval, log only then.
        formatter: takes the dict of values and returns the line; None for the default format.
        clock: returns the time in seconds; for tests.

    Raises:
        UserError: both intervals are given, or neither of them nor at_end.
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
        self._last_fetch: Callable | None = None
        self._last_time: float | None = None

    @override
    def begin(self, step: int) -> None:
        if self._timer is not None:
            self._timer.reset()
        self._last_fetch = self._last_time = None

    @override
    def before_run(self, step: int, fetch: Callable[[Any], Any]) -> None:
        self._last_fetch = fetch
        if self._timer is not None and self._timer.due(step):
            self._log(fetch)

    @override
    def finish(self) -> None:
        if self._at_end and self._last_fetch is not None:
            self._log(self._last_fetch)
        self._last_fetch = None

    def _log(self, fetch: Callable[[Any], Any]) -> None:
        values = fetch(self.tensors)
        now = self._clock()
        seconds = None if self._last_time is None else now - self._last_time
        self._last_time = now
        if self._formatter is not None:
            log.info("%s", self._formatter(values))
            return
        with np.printoptions(suppress=True):
            line = ", ".join(f"{name} = {values[name]}" for name in self.tensors)
        log.info("%s%s", line, "" if seconds is None else f" ({seconds:.3f} sec)")
