"""Keras's losses and metrics, with the counts and weights that they hide."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.losses import loss as _keras_loss
from keras.src.trainers.trainer import Trainer

from tfbig.errors import UserError


@contextlib.contextmanager
def losses_of_one_replica() -> Iterator[None]:
    """Keeps Keras's loss functions from dividing by the number of replicas inside the block.

    Reason: they divide by it whenever a strategy is active, which is right only if all parts
    of a batch are equally large. Guard: test_losses_of_one_replica.
    """
    import keras.src.backend.tensorflow.trainer as tf_trainer

    saved = _keras_loss.scale_loss_for_distribution
    assert tf_trainer.loss_module is _keras_loss
    _keras_loss.scale_loss_for_distribution = lambda value: value
    try:
        yield
    finally:
        _keras_loss.scale_loss_for_distribution = saved


def compiled_losses(model: keras.Model) -> list:
    """The (path, loss, loss_weights, name) of every output of a built, compiled model."""
    loss = model._compile_loss
    return list(loss._flat_losses) if loss is not None and loss._flat_losses else []


def all_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """All metrics that a model updates in a step, those that its `metrics` leaves out included.

    Reason: a model may override `metrics`, and Keras goes on to update the others. Guard:
    tests/programs/test_keras_state.py.
    """
    return list(Trainer.metrics.fget(model))


def reported_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """A compiled model's metrics but the tracker of the loss, which the loop reports itself.

    Reason: `model.metrics` has it among the others. Guard: tests/programs/test_keras_program.py.
    """
    return [metric for metric in model.metrics if metric is not model._loss_tracker]


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """The metric that reports a compiled model's loss.

    Reason: a model's own methods read it. Guard: tests/programs/test_own_reports.py.
    """
    return model._loss_tracker


def loss_trackers(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metrics that report the loss of each output, which Keras itself updates.

    Reason: `model.metrics` has them among the others. Guard: tests/programs/test_fed_metrics.py.
    """
    return list(model._compile_loss.metrics) if model._compile_loss is not None else []


@contextlib.contextmanager
def substituted_losses(model: keras.Model, wrap) -> Iterator[tuple]:
    """Puts `wrap(i, loss)` in the place of the model's i-th loss function inside the block.

    Yields what calls them all, `loss(labels, outputs, sample_weight)`, and the metrics that
    report the mean of each, which are left to `wrap`: it knows the true counts.

    Reason: CompileLoss alone knows how labels, outputs and sample weights of any structure go
    together; the loop needs each loss's unreduced values. Guard:
    tests/programs/test_keras_program.py.
    """
    compiled = model._compile_loss
    losses, trackers = compiled._flat_losses, compiled._metrics
    compiled._flat_losses = [
        entry._replace(loss=wrap(i, entry.loss)) for i, entry in enumerate(losses)
    ]
    compiled._metrics = [None] * len(trackers)
    try:
        yield compiled, trackers
    finally:
        compiled._flat_losses, compiled._metrics = losses, trackers


def unreduced(loss: keras.losses.Loss) -> Callable:
    """What gives a loss's values of labels and an output, as `Loss.__call__` takes them.

    A loss with its own `__call__` is called, and gives what it gives.

    Reason: that method casts, and reduces. Guard: tests/programs/test_loss_values.py.
    """
    if calls_itself(loss):
        return loss

    def call(labels, output):
        labels, output = tf.nest.map_structure(lambda t: tf.cast(t, loss.dtype), (labels, output))
        return tf.convert_to_tensor(loss.call(labels, output))

    return call


def calls_itself(loss: keras.losses.Loss) -> bool:
    """Whether a loss has its own `__call__`, so that Keras does not reduce what it gives."""
    return type(loss).__call__ is not keras.losses.Loss.__call__


def loss_values(
    loss: keras.losses.Loss, labels, output, sample_weight, row_weight, of_examples: bool
):
    """A Keras loss's weighted, masked, unreduced values, the mask, and the weights as used.

    `row_weight`, of shape [n] or None, is 0 for padding and weighs whole examples, while
    `sample_weight` follows Keras's rule for its shape; but where `of_examples` says that the
    values are [n, …], weights of fewer dimensions weigh whole examples or places too, as in
    Keras's metrics. Keras's losses would take such weights [n] for those of the last dimension
    where it happens to have n places.

    Reason: `Loss.__call__` does the same but hides the mask, which is the denominator. A loss
    with its own `__call__` is called, and taken as it is. Guard:
    tests/programs/test_keras_program.py.
    """
    if calls_itself(loss):
        assert row_weight is None, "such a loss is never given padding"
        return tf.convert_to_tensor(loss(labels, output, sample_weight)), None, sample_weight
    in_mask = keras_mask(output)
    values = unreduced(loss)(labels, output)
    mask = keras_mask(values)
    if in_mask is not None:
        mask = in_mask if mask is None else in_mask & mask
    whole = not values.shape.rank  # one number for the batch, which Keras weighs too
    reduction = loss.reduction if whole else None
    if of_examples:
        sample_weight = _of_values(loss, values, sample_weight)
    values = _keras_loss.reduce_weighted_values(values, sample_weight, mask, reduction, loss.dtype)
    if whole:
        return values, None, sample_weight
    if row_weight is not None:
        shape = [-1] + [1] * (values.shape.rank - 1)
        values *= tf.reshape(tf.cast(row_weight, values.dtype), shape)
    return values, mask, sample_weight


def _of_values(loss: keras.losses.Loss, values, weight):
    """Sample weights with the dimensions of a loss's values, or one more or less of size 1."""
    if weight is None or weight.shape.rank is None:
        return weight
    more = weight.shape.rank - values.shape.rank
    if more > 1 or (more == 1 and weight.shape[-1] != 1):
        shown = (["n", *(s if s else "?" for s in t.shape[1:])] for t in (weight, values))
        weights, own = (f"[{', '.join(map(str, shape))}]" for shape in shown)
        raise UserError(
            f"the sample weights have the shape {weights}, but the loss {loss.name!r} has values "
            f"of shape {own}; give weights of shape {own}, or [n] for whole examples."
        )
    if more < -1 or (more == -1 and values.shape[-1] != 1):
        return tf.reshape(weight, tf.concat([tf.shape(weight), [1] * -more], 0))
    return weight


def same_rank(first, second):
    """Keras's rule for a loss's weights: squeezes or expands the last dimension."""
    return _keras_loss.squeeze_or_expand_to_same_rank(first, second)


def compiled_metrics(model: keras.Model):
    """The CompileMetrics of a compiled model, or None."""
    return model._compile_metrics


def update_padded_metrics(model: keras.Model, y, y_pred, sample_weight, row_weight) -> None:
    """Updates a compiled model's metrics with the weight 0 for padding.

    Reason: Keras gives no weights at all to `metrics`, only to `weighted_metrics`. Guard: the
    uneven cases of tests/equivalence.
    """
    metrics = model._compile_metrics
    if metrics is None:
        return
    y, y_pred = metrics._flatten_y(y), metrics._flatten_y(y_pred)
    weights = [None] * len(y)
    if sample_weight is not None:
        given = metrics._flatten_y(sample_weight)
        weights = given[:1] * len(y) if len(given) < len(y) else given
    # Outputs at the end may have no labels; Keras leaves their metrics alone.
    weights = [_times_rows(w, row_weight, o) for w, o in zip(weights, y_pred, strict=False)]
    for metric, label, output in zip(metrics._flat_metrics, y, y_pred, strict=False):
        if metric:
            metric.update_state(label, output, _times_rows(None, row_weight, output))
    for metric, label, output, weight in zip(
        metrics._flat_weighted_metrics, y, y_pred, weights, strict=False
    ):
        if metric:
            metric.update_state(label, output, weight)


def _times_rows(weight, row_weight, output):
    """`row_weight` times `weight`, of a rank that goes together with the output's mask."""
    if weight is None:
        mask = keras_mask(output)
        return tf.reshape(row_weight, [-1] + [1] * (0 if mask is None else mask.shape.rank - 1))
    weight = tf.cast(weight, row_weight.dtype)
    return weight * tf.reshape(row_weight, [-1] + [1] * (weight.shape.rank - 1))


def metric_function(metric: keras.metrics.Metric) -> tuple[Any, dict]:
    """The function whose mean a metric is, or None, and its arguments.

    Reason: a config has the function's name alone. Guard: tests/programs/test_rebuilding.py and
    tests/programs/test_keras_padding.py.
    """
    return getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})


def keras_mask(tensor) -> tf.Tensor | None:
    """The mask that Keras's layers attached to a tensor.

    Reason: it is part of a loss's denominator. Guard: tests/programs/test_keras_program.py.
    """
    return getattr(tensor, "_keras_mask", None)
