"""Losses and metrics of a compiled Keras model, with their counts and weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.losses import loss as _keras_loss
from keras.src.trainers.trainer import Trainer

from tfbig.errors import UserError


@contextlib.contextmanager
def unscaled_losses() -> Iterator[None]:
    """Prevents Keras's losses from dividing by the number of replicas inside the block.

    Reason: they divide by it under any strategy, which is correct only if all replicas have the
    same number of examples.
    Guard: tests/private_api/test_losses.py.
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
    """The (path, loss, loss_weights, name) of every output of a built, compiled model.

    Reason: the public `model.loss` has names and functions in any structure, not per output.
    Guard: tests/programs/test_keras_program.py.
    """
    loss = model._compile_loss
    return list(loss._flat_losses) if loss is not None and loss._flat_losses else []


def all_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """All metrics that a model updates in a step, including those missing in its `metrics`.

    Reason: a model may override `metrics`, but Keras still updates the other ones.
    Guard: tests/programs/test_keras_state.py.
    """
    return list(Trainer.metrics.fget(model))


def reported_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metrics of a compiled model without the loss tracker, as the loop reports the loss.

    Reason: `model.metrics` contains the tracker too.
    Guard: tests/programs/test_keras_program.py.
    """
    return [metric for metric in model.metrics if metric is not model._loss_tracker]


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """The metric that reports the loss of a compiled model.

    Reason: custom methods of a model read it, and it has no public name.
    Guard: tests/programs/test_reported_metrics.py.
    """
    return model._loss_tracker


def loss_trackers(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metrics that report the loss of each output, which Keras itself updates.

    Reason: `model.metrics` does not distinguish them from others.
    Guard: tests/programs/test_metric_inputs.py.
    """
    return list(model._compile_loss.metrics) if model._compile_loss is not None else []


@contextlib.contextmanager
def substituted_losses(model: keras.Model, wrap) -> Iterator[tuple]:
    """Replaces the model's i-th loss function by `wrap(i, loss)` inside the block.

    Reason: only CompileLoss matches labels, outputs and sample weights of any structure, and the
    loop needs the unreduced values of each loss.
    Guard: tests/programs/test_keras_program.py.

    Yields:
        A function `loss(labels, outputs, sample_weight)` that calls all losses, and the metrics
        that report their means. Only `wrap` knows the true counts, so it has to update these.
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


def unreduced_loss(loss: keras.losses.Loss) -> Callable:
    """A function from labels and an output to the unreduced values of a loss.

    A loss with a custom `__call__` is returned itself.

    Reason: `Loss.__call__` casts its arguments, but also reduces the values.
    Guard: tests/programs/test_loss_values.py.
    """
    if has_custom_call(loss):
        return loss

    def call(labels, output):
        labels, output = tf.nest.map_structure(lambda t: tf.cast(t, loss.dtype), (labels, output))
        return tf.convert_to_tensor(loss.call(labels, output))

    return call


def has_custom_call(loss: keras.losses.Loss) -> bool:
    """Whether a loss has a custom `__call__`, so that Keras does not reduce its values.

    Reason: the reduction happens in Keras's `Loss.__call__` only.
    Guard: tests/programs/test_loss_values.py.
    """
    return type(loss).__call__ is not keras.losses.Loss.__call__


def loss_values(
    loss: keras.losses.Loss, labels, output, sample_weight, row_weight, of_examples: bool
):
    """Computes the weighted, masked, unreduced values of a Keras loss.

    A loss with a custom `__call__` is called, and its result is not changed.

    Reason: `Loss.__call__` computes the same but does not return the mask, whose sum is the
    denominator.
    Guard: tests/programs/test_keras_program.py.

    Args:
        loss: a keras.losses.Loss.
        labels, output: tensors of shape [n, …].
        sample_weight: follows Keras's rule for its shape, or None.
        row_weight: of shape [n], 0 for padding, or None.
        of_examples: whether the values have the shape [n, …]. Then weights with fewer dimensions
            weigh whole examples or positions, as in Keras's metrics. Keras's losses would apply
            weights of shape [n] to the last dimension if it has the size n.

    Returns:
        The values, the mask or None, and the sample weights in the shape used.
    """
    if has_custom_call(loss):
        assert row_weight is None, "batches are never padded for such a loss"
        return tf.convert_to_tensor(loss(labels, output, sample_weight)), None, sample_weight
    in_mask = keras_mask(output)
    values = unreduced_loss(loss)(labels, output)
    mask = keras_mask(values)
    if in_mask is not None:
        mask = in_mask if mask is None else in_mask & mask
    is_scalar = not values.shape.rank  # one number for the batch, which Keras weighs too
    reduction = loss.reduction if is_scalar else None
    if of_examples:
        sample_weight = _of_values(loss, values, sample_weight)
    values = _keras_loss.reduce_weighted_values(values, sample_weight, mask, reduction, loss.dtype)
    if is_scalar:
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
    """Squeezes or expands the last dimension, which is Keras's rule for weights of a loss.

    Reason: the weights of a mean_with_sample_weight loss must match Keras's in shape.
    Guard: tests/programs/test_keras_program.py.
    """
    return _keras_loss.squeeze_or_expand_to_same_rank(first, second)


def compiled_metrics(model: keras.Model):
    """The CompileMetrics of a compiled model, or None.

    Reason: its public methods update all metrics, but no public name leads to it.
    Guard: tests/programs/test_keras_program.py.
    """
    return model._compile_metrics


def update_padded_metrics(model: keras.Model, y, y_pred, sample_weight, row_weight) -> None:
    """Updates the metrics of a compiled model, with the weight 0 for padding.

    Reason: Keras passes weights to `weighted_metrics` only, not to `metrics`.
    Guard: tests/programs/test_padding_of_metrics.py.
    """
    metrics = model._compile_metrics
    if metrics is None:
        return
    y, y_pred = metrics._flatten_y(y), metrics._flatten_y(y_pred)
    weights = [None] * len(y)
    if sample_weight is not None:
        given = metrics._flatten_y(sample_weight)
        weights = given[:1] * len(y) if len(given) < len(y) else given
    # The last outputs may have no labels. Keras does not update their metrics.
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
    """`row_weight` times `weight`, with a rank that matches the mask of the output."""
    if weight is None:
        mask = keras_mask(output)
        return tf.reshape(row_weight, [-1] + [1] * (0 if mask is None else mask.shape.rank - 1))
    weight = tf.cast(weight, row_weight.dtype)
    return weight * tf.reshape(row_weight, [-1] + [1] * (weight.shape.rank - 1))


def metric_function(metric: keras.metrics.Metric) -> tuple[Any, dict]:
    """The function whose mean a metric computes, or None, and its keyword arguments.

    Reason: the config of a metric contains only the name of the function.
    Guard: tests/programs/test_rebuilding.py, tests/programs/test_keras_padding.py.
    """
    return getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})


def keras_mask(tensor) -> tf.Tensor | None:
    """The mask that a Keras layer attached to a tensor, or None.

    Reason: the denominator of a loss depends on it, and it has no public name.
    Guard: tests/programs/test_keras_program.py.
    """
    return getattr(tensor, "_keras_mask", None)
