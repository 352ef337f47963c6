"""HoldOutMetrics: metrics of a model whose task is inferred from the first batch."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.evaluation.statistics import Interval, bootstrap_all
from tfbig.metrics.classification import MOST_CLASSES, MOST_EXAMPLES, MOST_SCORES
from tfbig.metrics.metric import BatchReader, Metric, MetricBatch, Value, read_all, results
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
    """Computes metrics over one pass, batch by batch.

    Only rankings and the bootstrap keep the examples of a batch.

    Args:
        wanted: names for `metrics_for`, Metrics and keras.metrics.Metric objects; None for the
            default list of the task; [] for none.
        task: one of TASKS; None to infer it from the first batch and the model's loss.
        loss: the loss that the model is compiled with, or None.
        optional: whether it is acceptable to have no metrics with wanted=None, because the model
            has its own.
        samples: the number of bootstrap resamples for the intervals; 0 for no intervals.
        most_examples: the largest possible number of examples; None if unknown.

    Raises:
        UserError: the task is unknown, or an entry of `wanted` is not a metric.
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
            raise UserError(
                f"task={task!r}: expected one of {', '.join(map(repr, TASKS))}, or None."
            )
        self._wanted = None if wanted is None else _checked_metrics(wanted)
        if task is not None and self._wanted is not None:
            metrics_for(task, self._wanted)  # raises on an unknown name before any batch is read
        self._task, self._samples, self._most_examples = task, samples, most_examples
        losses = keras.tree.flatten(loss)
        self._loss = losses[0] if len(losses) == 1 else None
        self._optional = wanted is None and optional
        self._disabled = self._wanted == []
        self._examples_by_reader: dict[int, _StoredExamples] = {}
        self.examples = 0
        self.classes: int | None = None
        self.metrics: list[Metric] = []

    def add(self, labels: Any, predictions: Any, weights: Any) -> None:
        """Adds a batch of the Predictor: structures of arrays [n, …], or None.

        Raises:
            UserError: labels and predictions do not match, or there are no metrics for them.
        """
        count = len(keras.tree.flatten(predictions)[0])
        self.examples += count
        if self._disabled or not count:
            return
        try:
            labels, predictions = (
                _single_array(labels, "labels"),
                _single_array(predictions, "predictions"),
            )
            weights = None if weights is None else _single_array(weights, "sample weights")
            if not self.metrics:
                self._choose(labels, predictions)
        except UserError as error:
            if not self._optional:
                raise
            log.info("only the metrics that the model is compiled with are computed: %s", error)
            self._disabled = True
            return
        batches = read_all(self.metrics, labels, predictions, weights)
        for metric in self.metrics:
            metric.add(batches[id(metric.reader)])
        if self._samples:
            for key, batch in batches.items():
                self._examples_by_reader.setdefault(key, _StoredExamples()).add(batch, count)

    def results(self) -> dict[str, Value]:
        """Returns the results by name; {} if the model has only its own metrics."""
        return results(self.metrics)

    def intervals(self) -> dict[str, Interval]:
        """Returns bootstrap intervals of the metrics with a single number, except Keras metrics."""
        intervals: dict[str, Interval] = {}
        for key, stored in self._examples_by_reader.items():
            single = [
                metric
                for metric in self.metrics
                if id(metric.reader) == key
                and not isinstance(metric, KerasMetric)
                and isinstance(metric.result(), float)
            ]
            if single:
                intervals |= bootstrap_all(single, *stored.concatenate(), samples=self._samples)
        return {m.name: intervals[m.name] for m in self.metrics if m.name in intervals}

    def _choose(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        task = self._task or _infer_task(labels, predictions, self._loss)
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
        """Whether a default metric would fail because there are too many classes or examples."""
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
class _StoredExamples:
    """The batches of one reader, and the example that each entry belongs to."""

    batches: list[MetricBatch] = dataclasses.field(default_factory=list)
    example_of_entry: list[np.ndarray] = dataclasses.field(default_factory=list)
    examples: int = 0

    def add(self, batch: MetricBatch, count: int) -> None:
        """Adds a batch of `count` examples, each with one or several entries (tokens)."""
        fields = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
        entries = len(fields[0]) if fields[0] is not None else count
        self.batches.append(batch)
        example = np.repeat(np.arange(count), max(entries // count, 1))
        self.example_of_entry.append(self.examples + example)
        self.examples += count

    def concatenate(self) -> tuple[MetricBatch, np.ndarray]:
        """Returns all entries as one batch, and the example of each entry, int [entries]."""
        names = [field.name for field in dataclasses.fields(self.batches[0])]
        arrays = {n: np.concatenate([getattr(b, n) for b in self.batches]) for n in names}
        return dataclasses.replace(self.batches[0], **arrays), np.concatenate(self.example_of_entry)


def _checked_metrics(wanted: Any) -> list:
    """Checks the list of metrics and wraps Keras metrics."""
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise UserError(
            f"metrics={wanted!r}: expected a list of names, Metrics or keras.metrics objects; "
            f"write metrics=[{wanted!r}]."
        )
    metrics: list = []
    for one in wanted:
        if isinstance(one, keras.metrics.Metric):
            one = KerasMetric(one)
        elif not isinstance(one, (str, Metric)):
            raise UserError(
                f"metrics has {one!r}: expected a name such as 'accuracy', a tfbig.metrics Metric "
                "or a keras.metrics.Metric object such as keras.metrics.AUC()."
            )
        metrics.append(one)
    names = [one if isinstance(one, str) else one.name for one in metrics]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise UserError(
            f"metrics has {', '.join(map(repr, duplicates))} more than once; set different names."
        )
    return metrics


def _single_array(structure: Any, what: str) -> np.ndarray:
    leaves = keras.tree.flatten(structure)
    if structure is None or len(leaves) != 1:
        count = "no" if structure is None else len(leaves)
        raise UserError(
            f"there are {count} {what}; hold-out metrics need one array of labels and one of "
            "predictions. Compile the model with metrics for each of its outputs."
        )
    return np.asarray(leaves[0])


def _infer_task(labels: np.ndarray, predictions: np.ndarray, loss: Any) -> str:
    """Infers the task; the loss decides where a batch is ambiguous."""
    name = loss_name(loss) if loss is not None else ""
    single = predictions.ndim == 1 or predictions.shape[1:] == (1,)
    if name.startswith("binary_") and not single and labels.shape == predictions.shape:
        raise UserError("there are no hold-out metrics for several labels per example")
    if predictions.ndim > 3:
        raise UserError(
            f"predictions of shape {list(predictions.shape)} have no task; pass task=, one of "
            f"{', '.join(map(repr, TASKS))}"
        )
    task = task_of(labels, predictions)
    # A batch of counts or shares may consist of 0 and 1 only.
    return "regression" if task == "binary" and single and name in _REGRESSION_LOSSES else task


@dataclasses.dataclass
class _RawBatch(MetricBatch):
    labels: Any
    predictions: Any


class _RawReader(BatchReader):
    def __call__(self, labels: Any, predictions: Any, weights: Any = None) -> _RawBatch:
        return _RawBatch(weights, labels, predictions)


class KerasMetric(Metric):
    """Computes a keras.metrics.Metric on the host, from whole global batches.

    Example:

        metric = KerasMetric(keras.metrics.AUC(name="auc"))

    Args:
        metric: the Keras metric; its state is reset. It receives the sample weights.
    """

    def __init__(self, metric: keras.metrics.Metric):
        self._metric = metric
        super().__init__(metric.name, _RawReader())

    @override
    def reset(self) -> None:
        self._metric.reset_state()

    @override
    def add(self, batch: _RawBatch) -> None:
        self._metric.update_state(batch.labels, batch.predictions, sample_weight=batch.weights)

    def result(self) -> Value:
        """Returns a number, or a dict by the metric's own keys or by class number."""
        value = self._metric.result()
        if isinstance(value, Mapping):
            return {name: float(keras.ops.convert_to_numpy(each)) for name, each in value.items()}
        value = keras.ops.convert_to_numpy(value)
        if value.ndim == 0:
            return float(value)
        return {str(i): float(each) for i, each in enumerate(np.ravel(value))}
