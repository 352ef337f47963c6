"""NanTensorHook: stops training when the loss is NaN."""

import logging
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from tfbig.training.callbacks.nan_guard import NaNGuard

log = logging.getLogger("tfbig")


class NanTensorHook(NaNGuard):
    """Ends training at the first loss that is NaN or infinite, with or without an error.

    Without this hook, such a loss raises TrainingDiverged as well.

    Example: `tfbig.estimator.NanTensorHook(loss, fail_on_nan_loss=False)`

    Args:
        loss_tensor: the loss of the spec, or its name; other tensors are refused.
        fail_on_nan_loss: True raises TrainingDiverged; False logs an error and stops.
    """

    def __init__(self, loss_tensor: Any, fail_on_nan_loss: bool = True):
        super().__init__()
        self.loss_tensor, self._fail = loss_tensor, fail_on_nan_loss

    @override
    def on_nonfinite(self, step: int, describe: Callable[[], str | None] | None = None) -> None:
        if self._fail:
            super().on_nonfinite(step, describe)
        log.error("Model diverged with loss = NaN at step %d; training stops", step)
        self.model.stop_training = True
