"""Uncertainty of metrics: bootstrap intervals, and a paired test between two models."""

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.class_reader import ClassBatch, ClassReader
from tfbig.metrics.metric import Metric, MetricBatch
from tfbig.metrics.tasks import metrics_for, task_of

log = logging.getLogger("tfbig")

MetricLike = str | Metric | Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A metric's value and its confidence interval.

    Attributes:
        value: the metric of all examples.
        low, high: the ends of the interval; NaN if the metric is undefined for all resamples.
        undefined: the number of resamples for which the metric is undefined, such as ROC AUC with
            one class only; they are left out.
    """

    value: float
    low: float
    high: float
    undefined: int = 0


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """The difference between two models on the same examples.

    Attributes:
        difference: the metric of model a minus that of model b.
        low, high: the paired bootstrap interval of the difference.
        p_value: the two-sided p-value: the probability of a difference at least as large if the
            models were exchangeable.
    """

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap(
    metric: MetricLike,
    labels: Any,
    predictions: Any,
    *,
    weights: Any = None,
    groups: Any = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    task: str | None = None,
) -> Interval:
    """Returns the percentile bootstrap interval of a metric.

    The method is that of Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    Each resample has the size of the set and is drawn with replacement from its examples
    (sequences, for a language model). If examples are not independent, it is drawn from their
    groups. Intervals are too narrow for fewer than about 50 examples or groups.

    Example:

        interval = bootstrap("accuracy", labels, probabilities)
        print(f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})")

    Args:
        metric: a name for `metrics_for`, a Metric with a single number as its result (it is not
            modified), or a function (labels, predictions) -> float.
        labels: an array [n, …].
        predictions: an array [n, …].
        weights: None, or as in `Metric.update`; not allowed with a function.
        groups: the group of each example, [n], such as the patient or the document; or None.
        samples: the number of resamples.
        seed: the seed of the resamples; equal seeds give equal intervals.
        confidence: the confidence level, between 0 and 1.
        task: the task of a metric given by name; None to infer it with `task_of`.

    Returns:
        The value and its interval.

    Raises:
        UserError: the arrays do not match, there are no examples, or the metric is not a single
            number.
    """
    _check(samples, confidence)
    groups = _group_numbers(groups, _examples(labels, predictions))
    measure = _measurer(metric, labels, [predictions], weights, task)
    random = np.random.default_rng(seed)
    value = measure(None, None)
    drawn = np.array([measure(None, _counts(groups, random)) for _ in range(samples)])
    low, high, undefined = _ends(drawn, confidence)
    return Interval(value, low, high, undefined)


def bootstrap_all(
    metrics: Sequence[Metric],
    batch: MetricBatch,
    examples: np.ndarray,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Computes the intervals of `bootstrap` for several metrics from a converted batch.

    Args:
        metrics: metrics with a single number as their result; they are not modified.
        batch: all examples, as the reader of the metrics returns them.
        examples: int [entries of the batch], ascending from 0: the example of each entry. A
            sequence has several tokens and so several entries.
        samples, seed, confidence: as in `bootstrap`; all metrics use the same resamples.

    Returns:
        The intervals by the name of the metric.
    """
    _check(samples, confidence)
    metrics = [copy.deepcopy(metric) for metric in metrics]
    random = np.random.default_rng(seed)
    groups = np.arange(int(examples[-1]) + 1)

    def measure(batch: MetricBatch) -> list[float]:
        for metric in metrics:
            metric.reset()
            metric.add(batch)
        return [_number(metric.result(), metric.name) for metric in metrics]

    values = measure(batch)
    resamples = (batch.times(_counts(groups, random)[examples]) for _ in range(samples))
    drawn = np.array([measure(resample) for resample in resamples])
    return {
        metric.name: Interval(value, *_ends(column, confidence))
        for metric, value, column in zip(metrics, values, drawn.T, strict=True)
    }


def paired_test(
    metric: MetricLike,
    labels: Any,
    predictions_a: Any,
    predictions_b: Any,
    *,
    weights: Any = None,
    groups: Any = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    task: str | None = None,
) -> PairedTest:
    """Tests whether two models differ on the same examples by more than chance.

    The p-value is that of a paired permutation test: the predictions of the two models are
    swapped at random, example by example or group by group, `samples` times (Noreen,
    Computer-Intensive Methods for Testing Hypotheses, 1989). It is (1 + hits) / (1 + samples), so
    it is never 0 (Phipson & Smyth, "Permutation P-values should never be zero", 2010). The
    interval is that of a paired bootstrap.

    For ranking metrics (ROC AUC, PR AUC), both models should return probabilities, because scores
    on different scales cannot be swapped.

    Example:

        test = paired_test("accuracy", labels, tuned, scratch)
        print(f"{test.difference:+.3f}, p = {test.p_value:.3f}")

    Args:
        metric, labels, weights, groups, samples, seed, confidence, task: as in `bootstrap`.
        predictions_a, predictions_b: arrays [n, …] of the same shape. Unless the metric is a
            function, one may be probabilities and the other logits.

    Returns:
        The difference, its interval and the p-value; NaN where the metric is undefined.

    Raises:
        UserError: as in `bootstrap`.
    """
    _check(samples, confidence)
    size = _examples(labels, predictions_a)
    _examples(labels, predictions_b)
    if np.shape(predictions_a) != np.shape(predictions_b):
        raise UserError(
            f"predictions_a have shape {list(np.shape(predictions_a))}, predictions_b "
            f"{list(np.shape(predictions_b))}; a paired test needs the same examples and classes."
        )
    groups = _group_numbers(groups, size)
    measure = _measurer(metric, labels, [predictions_a, predictions_b], weights, task)
    random = np.random.default_rng(seed)
    all_a, all_b = np.zeros(size, bool), np.ones(size, bool)
    difference = measure(all_a, None) - measure(all_b, None)
    drawn, swapped = np.empty(samples), np.empty(samples)
    for i in range(samples):
        counts = _counts(groups, random)
        drawn[i] = measure(all_a, counts) - measure(all_b, counts)
        swap = random.integers(0, 2, groups.max() + 1).astype(bool)[groups]
        swapped[i] = measure(swap, None) - measure(~swap, None)
    low, high, _ = _ends(drawn, confidence)
    swapped = swapped[~np.isnan(swapped)]
    # Sums in another order differ by rounding, which must not count as a smaller difference.
    hits = np.sum(np.abs(swapped) >= abs(difference) * (1 - 1e-9) - 1e-12)
    p_value = float("nan") if np.isnan(difference) else float((1 + hits) / (1 + len(swapped)))
    return PairedTest(difference, low, high, p_value)


def _measurer(
    metric: MetricLike, labels: Any, predictions: list[Any], weights: Any, task: str | None
) -> Callable[[np.ndarray | None, np.ndarray | None], float]:
    """Returns a function (whether each example uses model b, count of each example) -> value."""
    labels, arrays = np.asarray(labels), [np.asarray(x) for x in predictions]
    size = len(labels)
    if isinstance(metric, str):
        task = task or task_of(labels, arrays[0])
        metrics = [metrics_for(task, [metric])[0] for _ in arrays]
    elif isinstance(metric, Metric):
        metrics = [copy.deepcopy(metric) for _ in arrays]
    elif not callable(metric):
        raise UserError(f"metric={metric!r}: expected a name, a Metric or a function.")
    elif weights is not None:
        raise UserError("weights= needs a metric by name or a Metric; a function takes none.")
    else:
        return _function_measurer(metric, labels, arrays)
    # Convert each model separately: one may return logits, the other probabilities.
    pairs = zip(metrics, arrays, strict=True)
    batches: list[Any] = [m.reader(labels, x, weights) for m, x in pairs]
    detectors = [m.reader.logit_detector for m in metrics if isinstance(m.reader, ClassReader)]
    if len({detector.from_logits for detector in detectors}) > 1:
        batches = [_ranked_by_probability(batch) for batch in batches]
    both, entries = _concatenate(batches), len(batches[0].weights)
    own = metrics[0]
    index = np.arange(entries)
    example = index // max(entries // size, 1)  # a sequence has several tokens

    def measure(second: np.ndarray | None, counts: np.ndarray | None) -> float:
        batch = both if second is None else both.take(index + entries * second[example])
        own.reset()
        own.add(batch if counts is None else batch.times(counts[example]))
        return _number(own.result(), own.name)

    return measure


def _function_measurer(
    function: Callable, labels: np.ndarray, arrays: list[np.ndarray]
) -> Callable:
    def measure(second: np.ndarray | None, counts: np.ndarray | None) -> float:
        chosen = arrays[0]
        if second is not None:
            chosen = np.where(second.reshape([-1] + [1] * (chosen.ndim - 1)), arrays[1], chosen)
        rows = slice(None) if counts is None else np.repeat(np.arange(len(labels)), counts)
        return _number(function(labels[rows], chosen[rows]), getattr(function, "__name__", "?"))

    return measure


def _ranked_by_probability(batch: ClassBatch) -> ClassBatch:
    return dataclasses.replace(batch, scores=batch.probabilities)


def _concatenate(batches: list[MetricBatch]) -> MetricBatch:
    fields = [field.name for field in dataclasses.fields(batches[0])]
    return dataclasses.replace(
        batches[0],
        **{name: np.concatenate([getattr(b, name) for b in batches]) for name in fields},
    )


def _number(value: Any, name: str) -> float:
    if np.ndim(value) or isinstance(value, dict):
        raise UserError(
            f"the result of {name} is not a single number but a {type(value).__name__}; use a "
            "metric with a single number, or a function that selects one."
        )
    return float(value)


def _counts(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    number = int(groups.max()) + 1
    return np.bincount(random.integers(0, number, number), minlength=number)[groups]


def _group_numbers(groups: Any, size: int) -> np.ndarray:
    if groups is None:
        return np.arange(size)
    array = np.asarray(groups)
    if array.shape != (size,):
        raise UserError(f"groups have shape {list(array.shape)}; pass one per example, [{size}].")
    return np.unique(array, return_inverse=True)[1]


def _examples(labels: Any, predictions: Any) -> int:
    shapes = np.shape(labels), np.shape(predictions)
    if not shapes[0] or not shapes[1] or shapes[0][0] != shapes[1][0] or not shapes[0][0]:
        raise UserError(
            f"labels have shape {list(shapes[0])} and predictions {list(shapes[1])}; pass the "
            "same number of examples for both, at least one."
        )
    return shapes[0][0]


def _check(samples: int, confidence: float) -> None:
    if not isinstance(samples, int | np.integer) or samples < 1:
        raise UserError(f"samples={samples!r}: expected an integer of at least 1, such as 1000.")
    if not 0 < confidence < 1:
        raise UserError(
            f"confidence={confidence!r}: expected a number between 0 and 1, such as 0.95."
        )


def _ends(drawn: np.ndarray, confidence: float) -> tuple[float, float, int]:
    defined = drawn[~np.isnan(drawn)]
    undefined = len(drawn) - len(defined)
    if undefined:
        log.info("the metric is undefined for %d of %d resamples", undefined, len(drawn))
    if not len(defined):
        return float("nan"), float("nan"), undefined
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high), undefined
