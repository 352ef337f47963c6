"""How contributions to the state of a metric combine: over micro-batches, batches, or not at all.

The loop splits a batch into micro-batches, and a run into ranges of steps between two log points.
Their contributions may be summed only if the result equals that of sequential updates. Metrics of
Keras are sums over examples if they receive one value per example. All other metrics are tested
on random numbers.
"""

import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.tracing import RecordingScope, assigned_handles, is_builtin, leaves

log = logging.getLogger("tfbig")

PARTS = "parts"  # the sum over micro-batches is the contribution of the whole batch
WHOLE_BATCHES = "updates"  # additive over whole batches only, such as a mean of batch values
BATCH_MEANS = "means"  # a keras.metrics.Mean of one number per batch, from the model itself
BATCH_SCALARS = "numbers"  # another metric of one number per batch, from the model itself
NOT_ADDITIVE = "nothing"  # the new value depends on the old one: a maximum, the last value
UNKNOWN_KIND = "unseen"  # updated by the model itself, in call or compute_loss

_UNSURE = "unsure"  # the random numbers did not change it

_ORDER = (PARTS, _UNSURE, WHOLE_BATCHES, BATCH_MEANS, BATCH_SCALARS, NOT_ADDITIVE, UNKNOWN_KIND)
_DRAWS = 8
_MIXING = (keras.losses.circle, keras.losses.dice, keras.losses.tversky)
_ROWS = (3, 5)  # sizes of two batches, which also are the micro-batches of a third


def metric_kinds(
    model: keras.Model,
    metrics: Sequence[keras.metrics.Metric],
    update: Callable[[Any, Any, Any, Any], None],
    symbols: tuple[Any, Any, Any, Any],
    by_model: Collection[int] = (),
    scalar_inputs: Mapping[int, str] = MappingProxyType({}),
) -> list[str]:
    """Determines for each variable of `metrics` how its contributions combine.

    Args:
        model: compiled and built.
        metrics: the reported metrics.
        update: updates the metrics as the model does after its forward pass, from features,
            labels, outputs and sample weights.
        symbols: these four, as structures of KerasTensors of shape [None, …], or None.
        by_model: the ids of the variables that the model's `call` or `compute_loss` updates.
        scalar_inputs: the result of `find_scalar_inputs`.

    Returns:
        One of the kinds above per variable, in the order of the variables.
    """
    variables = [v for metric in metrics for v in metric.variables]
    custom = _private_api.overrides(model, "compute_metrics")
    each = inner_metrics(metrics)
    known = {id(v) for metric in each if is_sum(metric) for v in metric.variables}
    if (
        not custom
        and all(id(v) in known for v in variables)
        and all(is_builtin(type(m)) for m in each)
    ):
        return [scalar_inputs.get(id(v), PARTS) for v in variables]
    check_raw_variables(each, update, symbols)
    tried = _tried(variables, update, symbols)
    if tried is None:  # only variables that the update cannot change are known
        touched = {id(v) for v in variables} - set(by_model) if custom else set()
        tried = [None if id(v) in known else NOT_ADDITIVE for v in variables]
    else:
        touched = {id(v) for v, kind in zip(variables, tried, strict=True) if kind}
    compiled = _private_api.compiled_metrics(model)
    updated = {  # the variables that `update` changes
        id(v)
        for metric in metrics
        if metric is compiled or any(id(v) in touched for v in metric.variables)
        for v in metric.variables
        if id(v) not in by_model
    }
    kinds = []
    for variable, kind in zip(variables, tried, strict=True):
        if id(variable) in scalar_inputs:
            kinds.append(scalar_inputs[id(variable)])
        elif id(variable) in known and (not custom or kind in (None, _UNSURE)):
            kinds.append(PARTS)
        elif id(variable) in updated:
            kinds.append(NOT_ADDITIVE if kind in (None, _UNSURE) else kind)
        else:
            kinds.append(UNKNOWN_KIND)
    return _one_kind_per_metric(metrics, kinds)


def _one_kind_per_metric(metrics: Sequence[keras.metrics.Metric], kinds: list[str]) -> list[str]:
    """Gives all variables of a metric the most restrictive kind among them."""
    found, remaining = [], iter(kinds)
    for metric in inner_metrics(metrics):
        of_metric = [next(remaining) for _ in metric.variables]
        if of_metric:
            found += [max(of_metric, key=_ORDER.index)] * len(of_metric)
    return found


def is_sum(metric: keras.metrics.Metric) -> bool:
    """Whether a metric is a sum over examples by its definition, as the metrics of Keras are.

    Exceptions are means of a loss object, of a function that compares the examples of a batch
    with each other, and of a function whose axis argument may reduce over examples.
    """
    function, arguments = _private_api.metric_function(metric)
    if not is_builtin(type(metric)) or function in _MIXING:
        return False
    if function is None:
        return True
    axis = arguments.get("axis", -1)
    along = isinstance(axis, int) and (axis == -1 or axis > 0)
    return inspect.isfunction(function) and is_builtin(function) and along


def names_of(metrics: Sequence[keras.metrics.Metric], kinds: list[str], *wanted: str) -> str:
    """The names of the metrics with variables of the wanted kinds, for a message."""
    of_variables, found = iter(kinds), []
    for metric in inner_metrics(metrics):
        if any(next(of_variables) in wanted for _ in metric.variables):
            found.append(f"{metric.name} ({type(metric).__name__})")
    return ", ".join(found)


def inner_metrics(metrics: Sequence[keras.metrics.Metric]) -> list[keras.metrics.Metric]:
    """The metrics in order, with each CompileMetrics replaced by the metrics inside it."""
    found = []
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        found += inner if isinstance(inner, list) and inner else [metric]
    return found


def _tried(variables: list, update: Callable, symbols: tuple) -> list[str | None] | None:
    """Tests on random numbers how each variable combines; None if the update fails on them.

    An entry is None if the update does not change the variable.
    """
    kinds: list[str | None] = []
    try:
        for seed in range(_DRAWS):
            drawn = _kinds_once(variables, update, symbols, seed)
            kinds = [_both(*pair) for pair in zip(kinds, drawn, strict=True)] if kinds else drawn
            if seed and _UNSURE not in kinds:
                break
    except Exception as error:  # the metrics may need labels that random numbers cannot imitate
        log.debug("the metrics could not be tested on random numbers: %s", error)
        return None
    return kinds


def _both(first: str | None, second: str | None) -> str | None:
    """Combines the results of two draws for one variable."""
    sure = [kind for kind in (first, second) if kind not in (None, _UNSURE)]
    if sure:
        return max(sure, key=_ORDER.index)
    return None if None in (first, second) else _UNSURE


def _kinds_once(variables: list, update: Callable, symbols: tuple, seed: int) -> list[str | None]:
    random = np.random.default_rng(seed)
    first, second = (_random_batch(symbols, rows, random) for rows in _ROWS)
    both = _joined(first, second)
    start = [keras.ops.convert_to_numpy(v) for v in variables]
    zero = [np.zeros_like(value) for value in start]

    def after(values: list, batch: tuple) -> list[np.ndarray]:
        scope = keras.StatelessScope(
            zip(variables, values, strict=True), initialize_variables=False
        )
        with scope:
            update(*batch)
        return [keras.ops.convert_to_numpy(scope.get_current_value(v)) for v in variables]

    after_first, after_second = after(start, first), after(start, second)
    sequential = after(after_first, second)
    joint = after(start, both)
    from_zero = after(zero, first)
    summed = [a + b for a, b in zip(from_zero, after(zero, second), strict=True)]
    kinds: list[str | None] = []
    for i, value in enumerate(start):
        updates = (after_first, after_second, sequential, joint)
        if all(np.array_equal(value, new[i]) for new in updates):
            kinds.append(None)
        elif not (
            _close(sequential[i], after_first[i] + after_second[i] - value)
            and _close(after_first[i], from_zero[i] + value)
        ):
            kinds.append(NOT_ADDITIVE)
        elif _close(sequential[i], joint[i]) and _close(sequential[i], summed[i] + value):
            # A variable that a batch leaves unchanged might be a maximum that was not exceeded.
            changed = not any(np.array_equal(value, new[i]) for new in (after_first, after_second))
            kinds.append(PARTS if changed else _UNSURE)
        else:
            kinds.append(WHOLE_BATCHES)
    return kinds


def _close(first: np.ndarray, second: np.ndarray) -> bool:
    return np.allclose(first, second, rtol=1e-4, atol=1e-6)


def _joined(first: tuple, second: tuple) -> tuple:
    return keras.tree.map_structure(
        lambda a, b: None if a is None else keras.ops.concatenate([a, b]), first, second
    )


def _random_batch(symbols: tuple, rows: int, random: np.random.Generator) -> tuple:
    """Random features, labels, outputs and weights with this number of rows; None stays None."""
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


def check_raw_variables(
    metrics: Sequence[keras.metrics.Metric], update: Callable[..., None], symbols: tuple
) -> None:
    """Refuses metrics that keep state in a tf.Variable, which can be neither reset nor summed.

    Args:
        metrics: the reported metrics, without those that contain others.
        update: updates them from `symbols`.
        symbols: structures of KerasTensors.

    Raises:
        UserError: a tf.Variable is assigned. The message names its metric if that is known.
    """
    assigned: dict[int, str] = {}

    def traced(*tensors):
        graph = tf.compat.v1.get_default_graph()
        with RecordingScope():
            update(*tensors)
        assigned.update(assigned_handles(graph, 0))

    try:
        _private_api.trace_symbolically(traced, *symbols)
    except Exception as error:  # the metrics may need a fixed batch size
        log.debug("the metrics could not be traced with a dynamic batch size: %s", error)
    if not assigned:
        return
    owners = (
        f"the metric {metric.name} ({type(metric).__name__}) assigns the tf.Variable {name}"
        for metric in metrics
        for name, handle in _handles(metric)
        if handle in assigned
    )
    operations = ", ".join(assigned.values())
    raise UserError(
        f"{next(owners, f'a metric assigns a tf.Variable ({operations})')} in its update, which "
        "tfbig can neither reset nor sum over batches; create it with self.add_variable(…) in the "
        "__init__ of the metric, and change it with its assign methods."
    )


def _handles(metric: keras.metrics.Metric) -> Iterator[tuple[str, int]]:
    """The tf.Variables in a metric's attributes: their names, and the ids of their handles."""
    attributes = {k: v for k, v in vars(metric).items() if not k.startswith("_")}
    for name, leaf in leaves("self", attributes):
        for part in getattr(leaf, "values", None) or (leaf,):
            if isinstance(part, tf.Variable):
                yield name.replace("/", "."), id(part.handle)
