"""The reference: a plain loop with no strategy, of Keras's public functions alone."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.equivalence.case import SEED, Case, Outcome
from tfbig.layers.batch_position import batch_position_scope


def train(case: Case, parts: int) -> Outcome:
    """Trains on the global batches, eagerly, one after the other.

    Args:
        parts: into how many parts each batch is cut, which the model sees one after the other;
            1, except for layers that mix the examples of a batch.
    """
    keras.config.set_dtype_policy(case.precision)
    try:
        keras.utils.set_random_seed(SEED)
        model = (case.reference_build or case.build)()
        return _train(case, model, parts)
    finally:
        keras.config.set_dtype_policy("float32")


def _train(case: Case, model: keras.Model, parts: int) -> Outcome:
    arrays, history, step = case.arrays(), [], 0
    loss_sum = examples = 0.0
    for _ in range(case.epochs):
        for batch in _slices(arrays, case.batch_size):
            loss, count = _step(model, batch, parts, step)
            loss_sum, examples, step = loss_sum + loss * count, examples + count, step + 1
            if step % case.log_every == 0 or step == case.steps:
                metrics = _metrics(model)
                if case.model_fn:
                    metrics = {}
                history.append({"step": step, "loss": loss_sum / examples, **metrics})
                loss_sum = examples = 0.0
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    optimizer = _values(model.optimizer.variables, case)
    evaluation = _evaluate(model, arrays, case.batch_size) if case.evaluates else {}
    if inner.use_ema and not case.model_fn:  # a checkpoint has the weights as they are trained
        model.optimizer.finalize_variable_values(model.trainable_variables)
    return Outcome(_values(model.variables, case), optimizer, history, evaluation)


def _values(variables: list, case: Case) -> list[np.ndarray]:
    if case.model_fn:  # in the order of the names that a model_fn gives them
        variables = sorted(variables, key=_name_in_model_fn)
    return [v.numpy() for v in variables]


def _name_in_model_fn(variable) -> str:
    scopes, _, name = variable.path.removeprefix("whole/").rpartition("/")
    scopes = scopes.split("/")[-1]  # a wrapped optimizer's slots are made in the wrapper's scope
    return f"{scopes}/{name.replace('whole_', '')}"


def _step(model: keras.Model, batch: Any, parts: int, step: int) -> tuple[float, int]:
    n = _count(batch)
    cuts = [(n * p // parts, n * (p + 1) // parts) for p in range(parts)]
    cuts = [(start, stop) for start, stop in cuts if start < stop]
    before = None
    loss, after = 0.0, []
    with tf.GradientTape() as tape:
        for start, stop in cuts:
            x, y, weight = _element(tf.nest.map_structure(lambda a: a[start:stop], batch))  # noqa: B023
            if before is not None:
                _set(model, before)
            elif len(cuts) > 1:
                if not model.built:
                    model(x)
                before = [v.numpy() for v in model.non_trainable_variables]
            with batch_position_scope(tf.constant(step, tf.int64), tf.constant(start)):
                y_pred = model(x, training=True)
            share = (stop - start) / n
            loss += share * model.compute_loss(x, y, y_pred, weight)
            model.compute_metrics(x, y, y_pred, weight)
            after.append([share * v.numpy() for v in model.non_trainable_variables])
        scaled = model.optimizer.scale_loss(loss)
    # Keras takes an embedding's gradient as slices, one for each token, and Adam's squares of the
    # slices of one row are not the square of their sum. The reference is the true gradient.
    gradients = [
        g if g is None else tf.convert_to_tensor(g)
        for g in tape.gradient(scaled, model.trainable_variables)
    ]
    model.optimizer.apply(gradients, model.trainable_variables)
    if len(cuts) > 1:
        _set(model, [sum(values) for values in zip(*after, strict=True)])
    return float(loss), n


def _set(model: keras.Model, values: list) -> None:
    for variable, value in zip(model.non_trainable_variables, values, strict=True):
        variable.assign(value)


def _metrics(model: keras.Model) -> dict[str, float]:
    """The metrics since they were read last, the loss's own aside."""
    results = {k: float(v) for k, v in model.get_metrics_result().items() if k != "loss"}
    for metric in model.metrics:
        metric.reset_state()
    return results


def _evaluate(model: keras.Model, arrays: Any, batch_size: int) -> dict[str, float]:
    loss_sum = examples = 0.0
    for batch in _slices(arrays, batch_size):
        x, y, weight = _element(batch)
        y_pred = model(x, training=False)
        n = _count(batch)
        loss_sum += n * float(model.compute_loss(x, y, y_pred, weight, training=False))
        examples += n
        model.compute_metrics(x, y, y_pred, weight)
    return {"loss": loss_sum / examples, **_metrics(model)}


def _slices(arrays: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(tf.nest.flatten(arrays)[0]), size):
        yield tf.nest.map_structure(lambda a: a[start : start + size], arrays)  # noqa: B023


def _element(batch: tuple) -> tuple[Any, Any, Any]:
    batch = tf.nest.map_structure(tf.constant, batch)
    return (*batch, *[None] * (3 - len(batch)))


def _count(batch: Any) -> int:
    return len(np.asarray(tf.nest.flatten(batch)[0]))
