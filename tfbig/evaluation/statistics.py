"""How sure a figure is: bootstrap intervals, and a paired test between two models."""

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.metrics.metric import Batch, Metric
from tfbig.metrics.reading import ClassBatch, ClassReading
from tfbig.metrics.tasks import metrics_for, task_of

log = logging.getLogger("tfbig")

Figure = str | Metric | Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and where it lies with the confidence asked for.

    Attributes:
        value: over the examples as they are.
        low, high: the ends; NaN if the figure is defined for no resample.
        undefined: the number of resamples for which it is not defined, as ROC AUC if they are of
            one class; they are left out.
    """

    value: float
    low: float
    high: float
    undefined: int = 0


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """How two models differ on the same examples.

    Attributes:
        difference: the figure of a less that of b.
        low, high: its interval, by paired bootstrap.
        p_value: how often a difference at least as large, of either sign, comes about if it does
            not matter which model a prediction is from.
    """

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap(
    metric: Figure,
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
    """The percentile bootstrap interval of a figure.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Resamples are as large as the set, drawn with replacement from its examples (sequences, for a
    language model), or from its groups if examples of one group are not independent. Intervals
    are too narrow for fewer than about 50 examples or groups.

    Example:

        interval = bootstrap("accuracy", labels, probabilities)
        print(f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})")

    Args:
        metric: a name of `metrics_for`, a Metric whose result is one number (it is not changed),
            or a function (labels, predictions) -> float.
        labels: array [n, …].
        predictions: array [n, …].
        weights: None, or as in `Metric.update`; not with a function.
        groups: None, or anything that can be compared, [n]: one patient, one document.
        samples: number of resamples.
        seed: equal seeds give equal intervals.
        confidence: between 0 and 1.
        task: for a name: its task; None: by `task_of`.

    Returns:
        An Interval.

    Raises:
        UserError: for arrays that do not go together, no examples, or a metric whose result is
            not one number.
    """
    _check(samples, confidence)
    groups = _group_numbers(groups, _examples(labels, predictions))
    figure = _figure(metric, labels, [predictions], weights, task)
    random = np.random.default_rng(seed)
    value = figure(None, None)
    drawn = np.array([figure(None, _counts(groups, random)) for _ in range(samples)])
    low, high, undefined = _ends(drawn, confidence)
    return Interval(value, low, high, undefined)


def bootstrap_all(
    metrics: Sequence[Metric],
    batch: Batch,
    examples: np.ndarray,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """The intervals of `bootstrap` for several metrics, from examples that have been read.

    Args:
        metrics: each with one number for a result; they are not changed.
        batch: all examples, as the metrics' Reading gives them.
        examples: int [entries of the batch], ascending from 0: the example that each entry is of;
            a sequence has several tokens.
        samples, seed, confidence: as in `bootstrap`; all metrics see the same resamples.
    """
    _check(samples, confidence)
    metrics = [copy.deepcopy(metric) for metric in metrics]
    random = np.random.default_rng(seed)
    groups = np.arange(int(examples[-1]) + 1)

    def measured(batch: Batch) -> list[float]:
        for metric in metrics:
            metric.reset()
            metric.add(batch)
        return [_number(metric.result(), metric.name) for metric in metrics]

    values = measured(batch)
    resamples = (batch.times(_counts(groups, random)[examples]) for _ in range(samples))
    drawn = np.array([measured(resample) for resample in resamples])
    return {
        metric.name: Interval(value, *_ends(column, confidence))
        for metric, value, column in zip(metrics, values, drawn.T, strict=True)
    }


def paired_test(
    metric: Figure,
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
    """Whether two models differ on the same examples by more than chance.

    The p-value is that of a paired permutation test: the predictions of the models are exchanged
    at random, example by example (group by group), `samples` times; Noreen, Computer-Intensive
    Methods for Testing Hypotheses, 1989; counted as (1 + hits) / (1 + samples), so that it is
    never 0: Phipson & Smyth, "Permutation P-values should never be zero", 2010. The interval is
    that of a paired bootstrap.

    For a figure that ranks (ROC AUC, PR AUC) both models should give probabilities: scores of
    different scales cannot be exchanged.

    Example:

        test = paired_test("accuracy", labels, tuned, scratch)
        print(f"{test.difference:+.3f}, p = {test.p_value:.3f}")

    Args:
        metric, labels, weights, groups, samples, seed, confidence, task: as in `bootstrap`.
        predictions_a, predictions_b: arrays [n, …] of the same shape. For a metric by name or a
            Metric, one may be probabilities and the other logits.

    Returns:
        A PairedTest; NaN where the figure is not defined.

    Raises:
        UserError: as `bootstrap`.
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
    figure = _figure(metric, labels, [predictions_a, predictions_b], weights, task)
    random = np.random.default_rng(seed)
    all_a, all_b = np.zeros(size, bool), np.ones(size, bool)
    difference = figure(all_a, None) - figure(all_b, None)
    drawn, exchanged = np.empty(samples), np.empty(samples)
    for i in range(samples):
        counts = _counts(groups, random)
        drawn[i] = figure(all_a, counts) - figure(all_b, counts)
        swap = random.integers(0, 2, groups.max() + 1).astype(bool)[groups]
        exchanged[i] = figure(swap, None) - figure(~swap, None)
    low, high, _ = _ends(drawn, confidence)
    exchanged = exchanged[~np.isnan(exchanged)]
    # Sums in another order differ by rounding: that is not a smaller difference.
    hits = np.sum(np.abs(exchanged) >= abs(difference) * (1 - 1e-9) - 1e-12)
    p_value = float("nan") if np.isnan(difference) else float((1 + hits) / (1 + len(exchanged)))
    return PairedTest(difference, low, high, p_value)


def _figure(
    metric: Figure, labels: Any, predictions: list[Any], weights: Any, task: str | None
) -> Callable[[np.ndarray | None, np.ndarray | None], float]:
    """A function (which model per example, how often each example) -> the figure."""
    labels, arrays = np.asarray(labels), [np.asarray(x) for x in predictions]
    size = len(labels)
    if isinstance(metric, str):
        task = task or task_of(labels, arrays[0])
        metrics = [metrics_for(task, [metric])[0] for _ in arrays]
    elif isinstance(metric, Metric):
        metrics = [copy.deepcopy(metric) for _ in arrays]
    elif not callable(metric):
        raise UserError(f"metric={metric!r}; write a name, a Metric or a function.")
    elif weights is not None:
        raise UserError("weights= goes with a metric by name or a Metric; a function takes none.")
    else:
        return _function_figure(metric, labels, arrays)
    # Each model is read by itself: one may give logits, the other probabilities.
    read: list[Any] = [m.reading(labels, x, weights) for m, x in zip(metrics, arrays, strict=True)]
    scales = [m.reading.scale for m in metrics if isinstance(m.reading, ClassReading)]
    if len({scale.from_logits for scale in scales}) > 1:
        read = [_ranked_by_probability(batch) for batch in read]
    both, tokens = _joined(read), len(read[0].weights)
    measure = metrics[0]
    place = np.arange(tokens)
    example = place // max(tokens // size, 1)  # a sequence has several tokens

    def figure(second: np.ndarray | None, counts: np.ndarray | None) -> float:
        batch = both if second is None else both.take(place + tokens * second[example])
        measure.reset()
        measure.add(batch if counts is None else batch.times(counts[example]))
        return _number(measure.result(), measure.name)

    return figure


def _function_figure(function: Callable, labels: np.ndarray, arrays: list[np.ndarray]) -> Callable:
    def figure(second: np.ndarray | None, counts: np.ndarray | None) -> float:
        guess = arrays[0]
        if second is not None:
            guess = np.where(second.reshape([-1] + [1] * (guess.ndim - 1)), arrays[1], guess)
        chosen = slice(None) if counts is None else np.repeat(np.arange(len(labels)), counts)
        return _number(function(labels[chosen], guess[chosen]), getattr(function, "__name__", "?"))

    return figure


def _ranked_by_probability(batch: ClassBatch) -> ClassBatch:
    return dataclasses.replace(batch, scores=batch.probabilities)


def _joined(batches: list[Batch]) -> Batch:
    fields = [field.name for field in dataclasses.fields(batches[0])]
    return dataclasses.replace(
        batches[0],
        **{name: np.concatenate([getattr(b, name) for b in batches]) for name in fields},
    )


def _number(value: Any, name: str) -> float:
    if np.ndim(value) or isinstance(value, dict):
        raise UserError(
            f"the result of {name} is not one number but a {type(value).__name__}; take a metric "
            "with one number, or a function that picks one."
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
        raise UserError(f"groups have shape {list(array.shape)}; give one per example, [{size}].")
    return np.unique(array, return_inverse=True)[1]


def _examples(labels: Any, predictions: Any) -> int:
    shapes = np.shape(labels), np.shape(predictions)
    if not shapes[0] or not shapes[1] or shapes[0][0] != shapes[1][0] or not shapes[0][0]:
        raise UserError(
            f"labels have shape {list(shapes[0])} and predictions {list(shapes[1])}; give the "
            "same number of examples of both, at least one."
        )
    return shapes[0][0]


def _check(samples: int, confidence: float) -> None:
    if not isinstance(samples, int | np.integer) or samples < 1:
        raise UserError(f"samples={samples!r}; write a whole number of at least 1, as 1000.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence!r}; write a number between 0 and 1, as 0.95.")


def _ends(drawn: np.ndarray, confidence: float) -> tuple[float, float, int]:
    there = drawn[~np.isnan(drawn)]
    undefined = len(drawn) - len(there)
    if undefined:
        log.info("the figure is not defined for %d of %d resamples", undefined, len(drawn))
    if not len(there):
        return float("nan"), float("nan"), undefined
    low, high = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high), undefined
