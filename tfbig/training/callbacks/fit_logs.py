"""The logs that a Keras callback receives, in the form in which `fit` passes them."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfbig.errors import UserError
from tfbig.programs.vector_metrics import to_fit_logs, to_scalars


def logs_for(callback: keras.callbacks.Callback, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the logs for a callback; a metric with a value for each class is an array.

    A TensorBoard receives one number for each class instead (f1_score_0, f1_score_1, …), because
    arrays fail there. Callbacks that monitor a name receive both.

    Args:
        callback: the callback that receives the logs.
        figures: numbers, and lists of numbers, by name.
    """
    figures = dict(sorted(figures.items()))  # in the same order as in Keras
    if isinstance(callback, keras.callbacks.TensorBoard):
        return to_scalars(figures)
    logs = to_fit_logs(figures)
    return {**to_scalars(figures), **logs} if hasattr(callback, "monitor") else logs


def check_monitors(callbacks: Iterable[Any], figures: Mapping[str, Any]) -> None:
    """Checks that no callback monitors a metric with several values, which have no order.

    Args:
        callbacks: the callbacks of a run.
        figures: the metrics of the run by name, with any values.

    Raises:
        UserError: a callback does; the message says what to write instead.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        several = np.size(figures.get(monitor.removeprefix("val_"), 0.0))
        if several > 1 and _compares(callback):
            raise UserError(
                f"{type(callback).__name__}(monitor={monitor!r}): the metric has {several} values, "
                f"one for each class. Monitor one of them, such as {monitor + '_0'!r}, or use a "
                'metric with one value, such as keras.metrics.F1Score(average="macro").'
            )


def _compares(callback: Any) -> bool:
    """Whether a callback compares monitored values; a ModelCheckpoint may save each time."""
    return getattr(callback, "save_best_only", True)
