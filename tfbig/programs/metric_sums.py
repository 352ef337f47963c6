"""What the state of a metric adds up over: parts of a batch, whole batches, or nothing.

The loop cuts a batch into parts, and a run into spans between two log points. It may add up what
the parts or the spans contribute to a metric only where that gives what one update after the other
gives. Keras's own metrics are sums over examples, if they are given a value for each example. All
others are tried on random numbers.
"""

import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.programs.observing import is_own
from tfbig.programs.raw_variables import refuse_raw_variables

log = logging.getLogger("tfbig")

PARTS = "parts"  # of a batch: what each part adds gives what the whole batch adds
UPDATES = "updates"  # by whole batches: a mean of one number for each batch, say
MEANS = "means"  # by whole batches: a Mean of the one number that the model gives it for each
NUMBERS = "numbers"  # by whole batches: the model gives it one number for each, of any kind
NOTHING = "nothing"  # the value follows from the one before: a maximum, the last value
UNSEEN = "unseen"  # the model itself updates it, in call or compute_loss; it may be of any kind

_UNSURE = "unsure"  # the numbers have not changed it

_ORDER = (PARTS, _UNSURE, UPDATES, MEANS, NUMBERS, NOTHING, UNSEEN)
_DRAWS = 8
_MIXING = (keras.losses.circle, keras.losses.dice, keras.losses.tversky)
_ROWS = (3, 5)  # of two batches, and of the parts of one


def metric_sums(
    model: keras.Model,
    metrics: Sequence[keras.metrics.Metric],
    update: Callable[[Any, Any, Any, Any], None],
    symbols: tuple[Any, Any, Any, Any],
    by_model: Collection[int] = (),
    fed: Mapping[int, str] = MappingProxyType({}),
) -> list[str]:
    """For each variable of `metrics`, in their order, what it adds up over.

    Args:
        model: compiled and built.
        metrics: those that are reported.
        update: updates the metrics as the model does after its forward pass, from features,
            labels, outputs and sample weights.
        symbols: these four, as structures of KerasTensors of shape [None, …]; or None.
        by_model: the ids of the variables that the model's `call` or `compute_loss` updates.
        fed: what `fed_metrics` has found.
    """
    variables = [v for metric in metrics for v in metric.variables]
    own = _private_api.overrides(model, "compute_metrics")
    each = inner_metrics(metrics)
    known = {id(v) for metric in each if is_sum(metric) for v in metric.variables}
    if not own and all(id(v) in known for v in variables) and all(is_own(type(m)) for m in each):
        return [fed.get(id(v), PARTS) for v in variables]
    refuse_raw_variables(each, update, symbols)
    tried = _tried(variables, update, symbols)
    if tried is None:  # only what it cannot have touched is known
        touched = {id(v) for v in variables} - set(by_model) if own else set()
        tried = [None if id(v) in known else NOTHING for v in variables]
    else:
        touched = {id(v) for v, kind in zip(variables, tried, strict=True) if kind}
    compiled = _private_api.compiled_metrics(model)
    seen = {  # of the metrics that `update` updates
        id(v)
        for metric in metrics
        if metric is compiled or any(id(v) in touched for v in metric.variables)
        for v in metric.variables
        if id(v) not in by_model
    }
    kinds = []
    for variable, kind in zip(variables, tried, strict=True):
        if id(variable) in fed:
            kinds.append(fed[id(variable)])
        elif id(variable) in known and (not own or kind in (None, _UNSURE)):
            kinds.append(PARTS)
        elif id(variable) in seen:
            kinds.append(NOTHING if kind in (None, _UNSURE) else kind)
        else:
            kinds.append(UNSEEN)
    return _alike(metrics, kinds)


def _alike(metrics: Sequence[keras.metrics.Metric], kinds: list[str]) -> list[str]:
    """Gives all variables of one metric the kind that adds up over the least of them."""
    found, left = [], iter(kinds)
    for metric in inner_metrics(metrics):
        own = [next(left) for _ in metric.variables]
        found += [max(own, key=_ORDER.index)] * len(own) if own else []
    return found


def is_sum(metric: keras.metrics.Metric) -> bool:
    """Whether a metric is a sum over examples by its definition: Keras's own are.

    But for those that take the mean of a loss object, of a function that compares the examples of
    a batch with each other, or of one that may be asked to reduce over examples.
    """
    function, arguments = _private_api.metric_function(metric)
    if not is_own(type(metric)) or function in _MIXING:
        return False
    if function is None:
        return True
    axis = arguments.get("axis", -1)
    along = isinstance(axis, int) and (axis == -1 or axis > 0)
    return inspect.isfunction(function) and is_own(function) and along


def names_of(metrics: Sequence[keras.metrics.Metric], kinds: list[str], *wanted: str) -> str:
    """The names of the metrics that have variables of some kinds, for a message."""
    of_variables, found = iter(kinds), []
    for metric in inner_metrics(metrics):
        if any(next(of_variables) in wanted for _ in metric.variables):
            found.append(f"{metric.name} ({type(metric).__name__})")
    return ", ".join(found)


def inner_metrics(metrics: Sequence[keras.metrics.Metric]) -> list[keras.metrics.Metric]:
    """Metrics, with those that a CompileMetrics holds in its place, in their order."""
    found = []
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        found += inner if isinstance(inner, list) and inner else [metric]
    return found


def _tried(variables: list, update: Callable, symbols: tuple) -> list[str | None] | None:
    """By trying: what each variable adds up over; None: the update leaves it as it is.

    None alone: it cannot be tried.
    """
    kinds: list[str | None] = []
    try:
        for seed in range(_DRAWS):
            drawn = _kinds_once(variables, update, symbols, seed)
            kinds = [_both(*pair) for pair in zip(kinds, drawn, strict=True)] if kinds else drawn
            if seed and _UNSURE not in kinds:
                break
    except Exception as error:  # it may need labels of a form that random numbers do not have
        log.debug("the metrics could not be tried on random numbers: %s", error)
        return None
    return kinds


def _both(first: str | None, second: str | None) -> str | None:
    """What two draws say of one variable; one that has not changed it says nothing."""
    sure = [kind for kind in (first, second) if kind not in (None, _UNSURE)]
    if sure:
        return max(sure, key=_ORDER.index)
    return None if None in (first, second) else _UNSURE


def _kinds_once(variables: list, update: Callable, symbols: tuple, seed: int) -> list[str | None]:
    random = np.random.default_rng(seed)
    first, second = (_random_batch(symbols, rows, random) for rows in _ROWS)
    whole = _joined(first, second)
    start = [keras.ops.convert_to_numpy(v) for v in variables]
    zero = [np.zeros_like(value) for value in start]

    def after(values: list, batch: tuple) -> list[np.ndarray]:
        scope = keras.StatelessScope(
            zip(variables, values, strict=True), initialize_variables=False
        )
        with scope:
            update(*batch)
        return [keras.ops.convert_to_numpy(scope.get_current_value(v)) for v in variables]

    one, other = after(start, first), after(start, second)
    in_turn = after(one, second)
    at_once = after(start, whole)
    alone = after(zero, first)
    apart = [a + b for a, b in zip(alone, after(zero, second), strict=True)]
    kinds: list[str | None] = []
    for i, value in enumerate(start):
        if all(np.array_equal(value, new[i]) for new in (one, other, in_turn, at_once)):
            kinds.append(None)
        elif not (
            _close(in_turn[i], one[i] + other[i] - value) and _close(one[i], alone[i] + value)
        ):
            kinds.append(NOTHING)
        elif _close(in_turn[i], at_once[i]) and _close(in_turn[i], apart[i] + value):
            # What a part does not change might be a maximum that the numbers did not reach.
            changed = not (np.array_equal(value, one[i]) or np.array_equal(value, other[i]))
            kinds.append(PARTS if changed else _UNSURE)
        else:
            kinds.append(UPDATES)
    return kinds


def _close(first: np.ndarray, second: np.ndarray) -> bool:
    return np.allclose(first, second, rtol=1e-4, atol=1e-6)


def _joined(first: tuple, second: tuple) -> tuple:
    return keras.tree.map_structure(
        lambda a, b: None if a is None else keras.ops.concatenate([a, b]), first, second
    )


def _random_batch(symbols: tuple, rows: int, random: np.random.Generator) -> tuple:
    """Features, labels, outputs and weights of so many rows; None stays None."""
    features, labels, outputs, weight = symbols
    classes = _classes(outputs)
    return (
        _random(features, rows, random, lambda shape: random.normal(size=shape), 2),
        _random(labels, rows, random, lambda shape: random.uniform(0, 1, shape), classes),
        _random(outputs, rows, random, lambda shape: random.uniform(0.05, 0.95, shape), 2),
        _random(weight, rows, random, lambda shape: random.uniform(0.5, 2, shape), 2),
    )


def _classes(outputs: Any) -> int:
    sizes = [tensor.shape[-1] for tensor in _flat(outputs) if len(tensor.shape) > 1]
    return min((size for size in sizes if size and size > 1), default=2)


def _flat(structure: Any) -> Iterator[Any]:
    return (leaf for leaf in keras.tree.flatten(structure) if leaf is not None)


def _random(symbols: Any, rows: int, random: np.random.Generator, floats: Callable, count: int):
    def draw(symbol):
        if symbol is None:
            return None
        shape = (rows, *(4 if size is None else size for size in symbol.shape[1:]))
        if symbol.dtype == "bool":
            values = random.integers(0, 2, shape)
        elif "int" in symbol.dtype:
            values = random.integers(0, count, shape)
        else:
            values = floats(shape)
        return keras.ops.cast(values, symbol.dtype)

    return keras.tree.map_structure(draw, symbols)
