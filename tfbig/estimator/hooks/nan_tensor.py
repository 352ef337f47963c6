"""NanTensorHook: what happens when the loss is NaN."""

import logging
from collections.abc import Callable
from typing import Any

from tfbig.training.callbacks.nan_guard import NaNGuard

log = logging.getLogger("tfbig")


class NanTensorHook(NaNGuard):
    """Ends training at the first loss that is NaN or infinite, with an error or without.

    With an error is what happens without this hook, too.

    Example: `tfbig.estimator.NanTensorHook(loss, fail_on_nan_loss=False)`

    Args:
        loss_tensor: the spec's loss, or its name; other tensors are refused.
        fail_on_nan_loss: raise TrainingDiverged; False: log an error and stop.
    """

    def __init__(self, loss_tensor: Any, fail_on_nan_loss: bool = True):
        super().__init__()
        self.loss_tensor, self._fail = loss_tensor, fail_on_nan_loss

    def on_nonfinite(self, step: int, describe: Callable[[], str | None] | None = None) -> None:
        if self._fail:
            super().on_nonfinite(step, describe)
        log.error("Model diverged with loss = NaN at step %d; training stops", step)
        self.model.stop_training = True
