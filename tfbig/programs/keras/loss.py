"""The losses of Keras models as terms of a batch's loss."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.keras.checks import loss_name
from tfbig.programs.keras.loss_probe import compares_examples, is_undivided, sizes_of_values
from tfbig.programs.program import Batch, Term


def loss_term(loss, labels, output, sample_weight, batch: Batch) -> Term:
    """The values of one Keras loss on one output, summed but not divided.

    Args:
        loss: a keras.losses.Loss.
        labels, output: tensors of shape [n, …].
        sample_weight: shape [n], of which each weighs a whole example, or broadcastable to the
            loss's values, or None.
        batch: which part of the global batch they are of.

    Raises:
        UserError: parts of a batch do not add up to what Keras computes.
    """
    sizes = sizes_of_values(loss, labels, output)
    of_examples = sizes is not None and sizes.of_examples
    values, mask, weight = _private_api.loss_values(
        loss, labels, output, sample_weight, batch.row_weight, of_examples
    )
    values = tf.cast(values, tf.float32)
    if not of_examples:
        assert batch.row_weight is None, "such a loss is never given padding"
        if not batch.whole:
            known = sizes is not None or not values.shape.rank
            masked = _private_api.keras_mask(output) is not None
            _check_parts(loss, known, sample_weight is not None, masked)
    if values.shape.rank == 0:
        doubt = f"the loss {_name_of(loss)} gives one number for a batch"
        return Term(program.SCALAR, values, doubt=doubt)
    term = _loss_of_values(loss, values, mask, weight, batch.row_weight, of_examples)
    if not of_examples and term.kind == program.OWN and sizes is not None and not sizes.grows:
        mean = tf.math.divide_no_nan(term.total, term.denominator)
        doubt = f"the loss {_name_of(loss)} gives {values.shape} values, not one for each example"
        return Term(program.SCALAR, mean, doubt=doubt)
    if compares_examples(loss, labels, output):
        doubt = f"the loss {_name_of(loss)} compares the examples of a batch with each other"
        term = term._replace(doubt=doubt)
    return term


def _name_of(loss: keras.losses.Loss) -> str:
    return loss_name(loss) or type(loss).__name__


def _check_parts(loss: keras.losses.Loss, known: bool, weighted: bool, masked: bool) -> None:
    """Refuses a loss that does not give a value for each example, where its parts do not add up.

    Args:
        loss: it works on a part of a batch.
        known: whether it is known how its values grow with the batch.
        weighted, masked: whether there are sample weights, and a mask.
    """
    name = _name_of(loss)
    if not known:
        raise UserError(
            f"the loss {name} cannot be called with batches of another size, so it is not known "
            "how to put it together from several parts of a batch; take the number of examples "
            "from its arguments: keras.ops.shape(y_true)[0]."
        )
    scaled = weighted and loss.reduction != "mean_with_sample_weight"
    if (scaled or (masked and is_undivided(loss))) and not _private_api.calls_itself(loss):
        by = "the sample weights" if weighted else "the mask"
        raise UserError(
            f"the loss {name} does not give one value for each example, and Keras multiplies what "
            f"it gives by {by}; of several parts of a batch that does not add up to the same as of "
            "the whole. Let it return a value for each example (no mean over axis 0), or train "
            'with strategy="one_device" and accumulation_steps=1.'
        )


def _loss_of_values(loss, values, mask, sample_weight, row_weight, of_examples: bool) -> Term:
    total = tf.reduce_sum(values)
    if is_undivided(loss):
        return Term(program.UNDIVIDED, total)
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
        count = _elements_of_row if of_examples else _elements
        each = count(values) / count(share)
        return Term(program.OWN, total, tf.reduce_sum(share) * each, nominal=nominal)
    if not of_examples:  # such as tokens, of all examples in one dimension
        return Term(program.OWN, total, _elements(values), nominal=nominal)
    return Term(program.EXAMPLES, total, per_row=_elements_of_row(values))


def own_term(model: keras.Model, loss: tf.Tensor, batch: Batch, sizes: Callable) -> Term:
    """The term of a model's own compute_loss, whose values Keras sums.

    Args:
        model: it has the method.
        loss: what the method gives.
        batch: which part of the global batch it is of.
        sizes: gives the `Sizes` of what the method gives.
    """
    total = tf.cast(tf.reduce_sum(loss), tf.float32)
    if loss.shape.rank and (batch.whole or sizes()[0].grows):
        return Term(program.UNDIVIDED, total)
    doubt = f"{type(model).__name__}.compute_loss gives one number for a batch"
    return Term(program.SCALAR, total, doubt=doubt)


def added_term(
    loss: tf.Tensor, place: int | None, batch: Batch, sizes: Callable, doubted: bool
) -> Term:
    """The term of an add_loss or a regulariser; of one value for each example, their sum.

    That is how Keras adds it up: a tensor that add_loss is given is summed. The activity
    regularizers of Keras's layers are means over examples.

    Args:
        loss: one of the model's losses.
        place: its place among those that add_loss was given, or None: it is not one of them.
        batch: which part of the global batch it is of.
        sizes: gives the `Sizes` of all that add_loss is given.
        doubted: whether it may depend on the batch in ways that are not known.
    """
    total = tf.cast(tf.reduce_sum(loss), tf.float32)
    if loss.shape.rank and not batch.whole and place is not None and sizes()[place].grows:
        return Term(program.UNDIVIDED, total)
    doubt = "a layer's add_loss gives one number for a batch" if doubted else ""
    return Term(program.ONCE, total, doubt=doubt)


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


def _elements(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.size(tensor), tf.float32)
