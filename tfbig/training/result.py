"""What train_distributed returns."""

import bisect
import dataclasses
from typing import Any

from tfbig.programs.vector_metrics import to_fit_logs


@dataclasses.dataclass
class TrainResult:
    """The outcome of a training run.

    Attributes:
        global_step: number of updates, of all runs in this model_dir together.
        loss: the mean loss of the steps between the last two log points; None: no step was run.
        metrics: the last evaluation's, `loss` included; {} without eval_input_fn. A metric with a
            value for each class has a float32 array here and in history.
        history: one dict for each log point: step, loss, metrics, learning_rate, steps_per_sec,
            examples_per_sec; an evaluation's figures are in that of its step as val_<name>, or in
            one with nothing else but the step.
        model_dir: where checkpoints are, or None.
        model: the trained keras.Model, or None for an estimator-style model_fn.
        data_wait: the share of the time in which the step waited for data, from 0 to 1; the first
            call of the loop is not counted; None: there was no other.
        cleaning: the fitted Cleaning of the training Source, or None; also in
            model_dir/cleaning.json. Hand it to `tfbig.export(preprocessing=…)`.
        cleaning_is_all: whether the model was trained on what `cleaning` returns, as it is;
            otherwise a `map` or an augmentation came after it, and what those do to every
            example belongs after it in `preprocessing` too.
        preempted: "SIGTERM" or "SIGINT" if a signal ended the run, else None.
    """

    global_step: int
    loss: float | None = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    model_dir: str | None = None
    model: Any = None
    preempted: str | None = None
    cleaning: Any = None
    cleaning_is_all: bool = False
    data_wait: float | None = None

    def __post_init__(self) -> None:
        self.metrics = to_fit_logs(self.metrics)
        self.history = [to_fit_logs(point) for point in self.history]


def note(history: list[dict[str, float]], step: int, logs: dict[str, float]) -> None:
    """Adds to a history's entry of this step; a new one comes in the order of the steps."""
    place = bisect.bisect_left(history, step, key=lambda entry: int(entry["step"]))
    if place == len(history) or history[place]["step"] != step:
        history.insert(place, {"step": step})
    history[place].update(logs)


def validation(metrics: dict[str, float]) -> dict[str, float]:
    """An evaluation's figures under the names that they have beside those of training."""
    return {f"val_{name}": value for name, value in metrics.items()}
