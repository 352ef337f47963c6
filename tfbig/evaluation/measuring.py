"""Hold-out metrics of a model whose task its first batch tells."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfbig.errors import UserError
from tfbig.evaluation.keras_metric import KerasMetric
from tfbig.evaluation.statistics import Interval, bootstrap_all
from tfbig.metrics.classification import MOST_CLASSES, MOST_EXAMPLES, MOST_SCORES
from tfbig.metrics.metric import Batch, Metric, Value, read_all, results
from tfbig.metrics.tasks import TASKS, metrics_for, task_of
from tfbig.programs.keras.checks import loss_name

log = logging.getLogger("tfbig")

_REGRESSION_LOSSES = (
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
    "poisson",
)


class HoldOutMetrics:
    """The figures of one pass, taken batch by batch.

    Nothing of a batch is kept but what a ranking or a bootstrap needs.

    Args:
        wanted: names of `metrics_for`, Metrics and keras.metrics.Metric objects; None: the usual
            list of the task; []: none.
        task: one of TASKS; None: what the first batch and the model's loss tell.
        loss: what the model was compiled with, or None.
        optional: with wanted=None, having no metrics is no error: the model has its own.
        samples: resamples for the intervals; 0: none.
        most_examples: how many there can be, or None: not known.

    Raises:
        UserError: there is no such task, or something wanted is no metric.
    """

    def __init__(
        self,
        wanted: Sequence[Any] | None,
        *,
        task: str | None,
        loss: Any = None,
        optional: bool = False,
        samples: int = 0,
        most_examples: int | None = None,
    ):
        if task is not None and task not in TASKS:
            raise UserError(f"task={task!r}; write one of {', '.join(map(repr, TASKS))}, or None.")
        self._wanted = None if wanted is None else _checked(wanted)
        if task is not None and self._wanted is not None:
            metrics_for(task, self._wanted)  # refuses a name before any batch is read
        self._task, self._samples, self._most_examples = task, samples, most_examples
        losses = keras.tree.flatten(loss)
        self._loss = losses[0] if len(losses) == 1 else None
        self._optional = wanted is None and optional
        self._left_out = self._wanted == []
        self._kept: dict[int, _Kept] = {}
        self.examples = 0
        self.classes: int | None = None
        self.metrics: list[Metric] = []

    def add(self, labels: Any, predictions: Any, weights: Any) -> None:
        """Adds a batch as the Predictor gives it: structures of arrays [n, …], or None.

        Raises:
            UserError: labels and predictions do not go together, or have no metrics.
        """
        count = len(keras.tree.flatten(predictions)[0])
        self.examples += count
        if self._left_out or not count:
            return
        try:
            labels, predictions = _only(labels, "labels"), _only(predictions, "predictions")
            weights = None if weights is None else _only(weights, "sample weights")
            if not self.metrics:
                self._choose(labels, predictions)
        except UserError as error:
            if not self._optional:
                raise
            log.info("no metrics but those that the model is compiled with: %s", error)
            self._left_out = True
            return
        batches = read_all(self.metrics, labels, predictions, weights)
        for metric in self.metrics:
            metric.add(batches[id(metric.reading)])
        if self._samples:
            for key, batch in batches.items():
                self._kept.setdefault(key, _Kept()).add(batch, count)

    def figures(self) -> dict[str, Value]:
        """The figures by name; {} if there are none but the model's own."""
        return results(self.metrics)

    def intervals(self) -> dict[str, Interval]:
        """The bootstrap interval of each figure that is one number, Keras's metrics aside."""
        found: dict[str, Interval] = {}
        for key, kept in self._kept.items():
            single = [
                metric
                for metric in self.metrics
                if id(metric.reading) == key
                and not isinstance(metric, KerasMetric)
                and isinstance(metric.result(), float)
            ]
            if single:
                found |= bootstrap_all(single, *kept.together(), samples=self._samples)
        return {m.name: found[m.name] for m in self.metrics if m.name in found}

    def _choose(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        task = self._task or _task(labels, predictions, self._loss)
        if task in ("classes", "language"):
            self.classes = np.shape(predictions)[-1]
        elif task == "binary":
            self.classes = 2
        logits = getattr(self._loss, "from_logits", False) is True
        metrics = metrics_for(
            task, self._wanted, classes=self.classes, from_logits=True if logits else "auto"
        )
        if self._wanted is None:
            metrics = [metric for metric in metrics if not self._too_large(metric)]
        self.metrics = metrics

    def _too_large(self, metric: Metric) -> bool:
        """Whether a metric that nobody has asked for would end the evaluation in an error."""
        classes, examples = self.classes or 1, self._most_examples or 0
        ranks = metric.name.startswith(("roc_auc", "pr_auc"))
        if not (
            (metric.name == "confusion_matrix" and classes > MOST_CLASSES)
            or (ranks and (examples > MOST_EXAMPLES or examples * classes > MOST_SCORES))
        ):
            return False
        log.info("%s is left out: %d examples, %d classes", metric.name, examples, classes)
        return True


@dataclasses.dataclass
class _Kept:
    """What was read, and which example each entry is of."""

    batches: list[Batch] = dataclasses.field(default_factory=list)
    owners: list[np.ndarray] = dataclasses.field(default_factory=list)
    examples: int = 0

    def add(self, batch: Batch, count: int) -> None:
        fields = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
        entries = len(fields[0]) if fields[0] is not None else count
        self.batches.append(batch)
        owners = np.repeat(np.arange(count), max(entries // count, 1))
        self.owners.append(self.examples + owners)
        self.examples += count

    def together(self) -> tuple[Batch, np.ndarray]:
        names = [field.name for field in dataclasses.fields(self.batches[0])]
        arrays = {n: np.concatenate([getattr(b, n) for b in self.batches]) for n in names}
        return dataclasses.replace(self.batches[0], **arrays), np.concatenate(self.owners)


def _checked(wanted: Any) -> list:
    """The list of what is wanted, Keras's metrics as Metrics."""
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise UserError(
            f"metrics={wanted!r}: expected a list of names, Metrics or keras.metrics objects; "
            f"write metrics=[{wanted!r}]."
        )
    found: list = []
    for one in wanted:
        if isinstance(one, keras.metrics.Metric):
            one = KerasMetric(one)
        elif not isinstance(one, (str, Metric)):
            raise UserError(
                f"metrics has {one!r}: expected a name as 'accuracy', a tfbig.evaluation Metric or "
                "a keras.metrics.Metric object, as keras.metrics.AUC()."
            )
        found.append(one)
    names = [one if isinstance(one, str) else one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"metrics has {', '.join(map(repr, twice))} more than once; give each its own name=."
        )
    return found


def _only(structure: Any, what: str) -> np.ndarray:
    leaves = keras.tree.flatten(structure)
    if structure is None or len(leaves) != 1:
        found = "no" if structure is None else len(leaves)
        raise UserError(
            f"there are {found} {what}; hold-out metrics need one array of labels and one of "
            "predictions. Compile the model with metrics for each of its outputs."
        )
    return np.asarray(leaves[0])


def _task(labels: np.ndarray, predictions: np.ndarray, loss: Any) -> str:
    """The task, where the loss decides what a batch leaves open."""
    name = loss_name(loss) if loss is not None else ""
    single = predictions.ndim == 1 or predictions.shape[1:] == (1,)
    if name.startswith("binary_") and not single and labels.shape == predictions.shape:
        raise UserError("several labels to an example have no hold-out metrics")
    if predictions.ndim > 3:
        raise UserError(
            f"predictions of shape {list(predictions.shape)} have no task; write the task: one of "
            f"{', '.join(map(repr, TASKS))}"
        )
    task = task_of(labels, predictions)
    # Of a count or a share a batch may have nothing but 0 and 1.
    return "regression" if task == "binary" and single and name in _REGRESSION_LOSSES else task
