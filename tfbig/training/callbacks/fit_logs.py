"""The logs that a Keras callback is given of figures, as `fit` would give them."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfbig.errors import UserError
from tfbig.programs.vector_metrics import to_fit_logs, to_scalars


def logs_for(callback: keras.callbacks.Callback, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with an array for a metric with a value for each class, under the metric's name.

    A TensorBoard has one number a name instead (f1_score_0, f1_score_1, …), since `fit` fails
    there, and callbacks that monitor a name have both.

    Args:
        callback: what the logs are for.
        figures: numbers, and lists of them, by name.
    """
    figures = dict(sorted(figures.items()))  # as Keras sorts them
    if isinstance(callback, keras.callbacks.TensorBoard):
        return to_scalars(figures)
    given = to_fit_logs(figures)
    return {**to_scalars(figures), **given} if hasattr(callback, "monitor") else given


def check_monitors(callbacks: Iterable[Any], figures: Mapping[str, Any]) -> None:
    """Refuses callbacks that monitor a metric with several values, which have no order.

    Args:
        callbacks: of a run.
        figures: its metrics by name, with any values.

    Raises:
        UserError: there is one; it says what to write instead.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        several = np.size(figures.get(monitor.removeprefix("val_"), 0.0))
        if several > 1 and _compares(callback):
            raise UserError(
                f"{type(callback).__name__}(monitor={monitor!r}): the metric has {several} values, "
                f"one for each class. Monitor one of them, as {monitor + '_0'!r}, or give the "
                'metric one value, as keras.metrics.F1Score(average="macro").'
            )


def _compares(callback: Any) -> bool:
    """Whether a callback looks at what it monitors; a ModelCheckpoint may save each time."""
    return getattr(callback, "save_best_only", True)
