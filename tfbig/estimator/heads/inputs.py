"""Checks of the logits, labels and weights that a head is given."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError


def checked_logits(logits: Any, size: int) -> tf.Tensor:
    """Returns float32 logits of shape [n, …, size].

    Raises:
        UserError: they have another shape.
    """
    logits = tf.cast(logits, tf.float32)
    rank, last = logits.shape.rank, logits.shape[-1] if logits.shape.rank else None
    if (rank is not None and rank < 2) or last not in (None, size):
        raise UserError(
            "logits shape must be [D0, D1, ... DN, logits_dimension], with logits_dimension "
            f"{size}; got {logits.shape}."
        )
    return logits


def shaped_labels(labels: Any, logits: tf.Tensor, size: int) -> tf.Tensor:
    """Returns labels of shape [n, …, size]; with size 1, the last dimension may be missing.

    Raises:
        UserError: there are no labels, or they have another shape.
        tf.errors.InvalidArgumentError: when a step runs, if the shape is known only then.
    """
    if labels is None:
        raise UserError(
            "You must provide a labels Tensor. Given: None. Return (features, labels) from "
            "input_fn."
        )
    if isinstance(labels, tf.SparseTensor):
        raise UserError(
            "SparseTensor labels are not supported; write tf.sparse.to_dense(labels) in input_fn."
        )
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank is not None and labels.shape.rank == (logits.shape.rank or 2) - 1:
        labels = labels[..., tf.newaxis]
    if labels.shape.rank is not None and labels.shape[-1] not in (None, size):
        raise UserError(
            f"Mismatched label shape. Expected labels dimension={size}. Received "
            f"{labels.shape[-1]}, in labels of shape {labels.shape}; check n_classes or "
            "label_dimension."
        )
    expected = tf.concat([tf.shape(logits)[:-1], [size]], 0)
    message = f"labels shape must be [D0, D1, ... DN, {size}], as that of the logits"
    same = tf.debugging.assert_equal(tf.shape(labels), expected, message)
    with tf.control_dependencies([same]):
        return tf.identity(labels)


def labels_below(labels: tf.Tensor, classes: int, message: str = "") -> tf.Tensor:
    """Returns the labels, which are checked when a step runs to be in [0, classes).

    XLA leaves checks out; `or_nan` makes the loss NaN then.
    """
    most = message or f"Labels must be <= {classes - 1}, the number of classes - 1"
    checks = [
        tf.debugging.assert_less_equal(labels, tf.cast(classes - 1, labels.dtype), most),
        tf.debugging.assert_non_negative(labels, message or "Labels must be >= 0"),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(labels)


def or_nan(losses: tf.Tensor, labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Returns the losses, [n, …, 1], and NaN where a label, [n, …, d], is not in [0, classes)."""
    right = (labels >= 0) & (labels <= tf.cast(classes - 1, labels.dtype))
    right = tf.reduce_all(right, -1, keepdims=True)
    return tf.where(right, losses, tf.constant(float("nan"), losses.dtype))


def weights_of(features: Any, column: Any, logits: tf.Tensor, each: bool = False) -> Any:
    """Returns the float32 weights of the examples, [n, …, 1]; None without a weight_column.

    Args:
        features: dict of tensors.
        column: the name of a feature, or a tf.feature_column.numeric_column.
        logits: [n, …, d].
        each: whether a weight for each logit is allowed.

    Raises:
        UserError: there is no such feature, or it has another shape.
    """
    if column is None:
        return None
    name = column if isinstance(column, str) else getattr(column, "key", None)
    if name is None:
        raise UserError(
            f"weight_column={column!r}: expected the name of a feature, or a "
            "tf.feature_column.numeric_column."
        )
    if not isinstance(features, dict) or name not in features:
        known = sorted(features) if isinstance(features, dict) else "no dict"
        raise UserError(f"weight_column={name!r}: input_fn has no such feature; it has {known}.")
    weights = tf.cast(features[name], tf.float32)
    normalize = getattr(column, "normalizer_fn", None)
    if normalize is not None:
        weights = normalize(weights)
    if weights.shape.rank is not None and weights.shape.rank == logits.shape.rank - 1:
        weights = weights[..., tf.newaxis]
    allowed = (None, 1, logits.shape[-1]) if each else (None, 1)
    rank = weights.shape.rank
    fits = rank is None or (
        weights.shape[:-1].is_compatible_with(logits.shape[:-1]) and weights.shape[-1] in allowed
    )
    if not fits:
        raise UserError(
            f"weights shape must be [D0, D1, ... DN] or [D0, D1, ... DN, 1] for logits of shape "
            f"{logits.shape}; the feature {name!r} has {weights.shape}."
        )
    return weights


def own_losses(
    loss_fn: Callable, labels: tf.Tensor, logits: tf.Tensor, features: Any, size: int
) -> tf.Tensor:
    """Calls a user's loss_fn(labels, logits[, features]) and checks that it returns [n, …, size].

    Raises:
        UserError: it returns another shape.
    """
    keywords = {"features": features} if "features" in _parameters(loss_fn) else {}
    losses = tf.convert_to_tensor(loss_fn(labels=labels, logits=logits, **keywords))
    if not losses.shape.is_compatible_with([*logits.shape[:-1], size]):
        raise UserError(
            f"loss_fn must return Tensor of shape [D0, D1, ... DN, {size}], for logits of shape "
            f"{logits.shape}; it returned {losses.shape}."
        )
    return losses


def check_loss_fn(loss_fn: Any) -> None:
    """Refuses a loss_fn that lacks labels or logits, or that takes other arguments.

    Raises:
        UserError: the message names the arguments.
    """
    if loss_fn is None:
        return
    takes = _parameters(loss_fn)
    for needed in ("labels", "logits"):
        if needed not in takes:
            raise UserError(f"loss_fn must contain argument: {needed}. Given arguments: {takes}.")
    others = sorted(set(takes) - {"labels", "logits", "features", "loss_reduction"})
    if others:
        raise UserError(f"loss_fn has unexpected args: {others}; give them a value before.")


def check_thresholds(thresholds: Sequence[float] | None) -> tuple[float, ...]:
    """Returns the thresholds of a head's metrics.

    Raises:
        UserError: one is not between 0 and 1.
    """
    found = tuple(thresholds or ())
    for threshold in found:
        if not 0 < threshold < 1:
            raise UserError(f"thresholds not in (0, 1): {found}.")
    return found


def check_vocabulary(vocabulary: Any, classes: int) -> tuple[str, ...] | None:
    """Returns the label_vocabulary of a head, or None.

    Raises:
        UserError: it is no list of strings, or has another length than there are classes.
    """
    if vocabulary is None:
        return None
    if not isinstance(vocabulary, (list, tuple)):
        kind = type(vocabulary).__name__
        raise UserError(f"label_vocabulary should be a list or a tuple. Given type: {kind}.")
    if len(vocabulary) != classes:
        raise UserError(
            f'"label_vocabulary" does not have "n_classes" items: it has {len(vocabulary)}, and '
            f"n_classes is {classes}."
        )
    return tuple(vocabulary)


def looked_up(labels: tf.Tensor, vocabulary: tuple[str, ...] | None) -> tf.Tensor:
    """Returns the numbers of labels that are names; -1 for a name that is not in the vocabulary.

    Raises:
        UserError: the labels are strings without a vocabulary, or the other way round.
    """
    if vocabulary is None:
        if labels.dtype == tf.string:
            raise UserError("The labels are strings; pass their values as label_vocabulary=[…].")
        return labels
    if labels.dtype != tf.string:
        raise UserError(
            "Labels dtype should be string if there is a vocabulary. Instead got "
            f"{labels.dtype.name}; leave label_vocabulary out."
        )
    ids = tf.lookup.KeyValueTensorInitializer(
        tf.constant(vocabulary), tf.range(len(vocabulary), dtype=tf.int64)
    )
    return tf.lookup.StaticHashTable(ids, -1).lookup(labels)


def _parameters(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)
