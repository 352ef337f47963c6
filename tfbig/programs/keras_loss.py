"""One Keras loss on one output, as a term of a batch's loss."""

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.programs import program
from tfbig.programs.keras_checks import loss_name
from tfbig.programs.loss_probe import compares_examples
from tfbig.programs.program import Batch, Term


def loss_term(loss, labels, output, sample_weight, row_weight) -> Term:
    """The values of one Keras loss on one output, summed but not divided.

    Args:
        loss: a keras.losses.Loss.
        labels, output: tensors of shape [n, …].
        sample_weight: shape [n], of which each weighs a whole example, or broadcastable to the
            loss's values, or None.
        row_weight: float32 [n], 0 for padding, or None.
    """
    values, mask, sample_weight = _private_api.loss_values(
        loss, labels, output, sample_weight, row_weight
    )
    values = tf.cast(values, tf.float32)
    if values.shape.rank == 0:
        doubt = f"the loss {_name_of(loss)} gives one number for a batch"
        return Term(program.SCALAR, values, doubt=doubt)
    term = _loss_of_examples(loss, values, mask, sample_weight, row_weight)
    if compares_examples(loss, labels, output):
        doubt = f"the loss {_name_of(loss)} compares the examples of a batch with each other"
        term = term._replace(doubt=doubt)
    return term


def _name_of(loss: keras.losses.Loss) -> str:
    return loss_name(loss) or type(loss).__name__


def _loss_of_examples(loss, values: tf.Tensor, mask, sample_weight, row_weight) -> Term:
    total = tf.reduce_sum(values)
    if loss.reduction in ("sum", None, "none"):
        return Term(program.UNDIVIDED, total)
    per_row = _elements_of_row(values)
    nominal = float(values.shape[1:].num_elements() or 1)
    if loss.reduction == "mean_with_sample_weight" and sample_weight is not None:
        weight = tf.cast(sample_weight, tf.float32)
        if row_weight is not None:
            weight = _times_rows(weight, row_weight)
        if mask is not None:
            mask, weight = _private_api.same_rank(tf.cast(mask, tf.float32), weight)
            weight *= mask
        return Term(program.OWN, total, tf.reduce_sum(weight), nominal=nominal)
    if mask is not None:
        share = tf.cast(mask, tf.float32)
        if row_weight is not None:
            share = _times_rows(share, row_weight)
        each = per_row / _elements_of_row(share)
        return Term(program.OWN, total, tf.reduce_sum(share) * each, nominal=nominal)
    return Term(program.EXAMPLES, total, per_row=per_row)


def mean_of(term: Term, batch: Batch) -> tf.Tensor:
    """The mean that Keras shows for one output's loss."""
    if term.kind == program.EXAMPLES:
        return tf.math.divide_no_nan(term.total, batch.count * term.per_row)
    if term.kind == program.OWN:
        return tf.math.divide_no_nan(term.total, term.denominator)
    return term.total


def _times_rows(weight: tf.Tensor, row_weight: tf.Tensor) -> tf.Tensor:
    weight = tf.cast(weight, tf.float32)
    return weight * tf.reshape(row_weight, [-1] + [1] * (weight.shape.rank - 1))


def _elements_of_row(tensor: tf.Tensor):
    known = tensor.shape[1:].num_elements()
    return float(known) if known else tf.cast(tf.reduce_prod(tf.shape(tensor)[1:]), tf.float32)
