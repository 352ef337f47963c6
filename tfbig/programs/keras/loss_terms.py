"""Converts the losses of a Keras model to terms of the loss of a batch."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.keras.checks import loss_name
from tfbig.programs.keras.loss_probe import compares_examples, is_undivided, probe_loss_values
from tfbig.programs.program import BatchPart, Term


def loss_term(loss, labels, output, sample_weight, batch: BatchPart) -> Term:
    """Sums the values of one Keras loss on one output, without dividing them.

    Args:
        loss: a keras.losses.Loss.
        labels, output: tensors of shape [n, …].
        sample_weight: of shape [n], one weight per example, or of a shape that broadcasts to the
            values of the loss, or None.
        batch: the micro-batch of the labels and the output.

    Raises:
        UserError: the micro-batches do not add up to the value that Keras computes.
    """
    sizes = probe_loss_values(loss, labels, output)
    of_examples = sizes is not None and sizes.of_examples
    values, mask, weight = _private_api.loss_values(
        loss, labels, output, sample_weight, batch.row_weight, of_examples
    )
    values = tf.cast(values, tf.float32)
    if not of_examples:
        assert batch.row_weight is None, "batches are never padded for such a loss"
        if not batch.is_whole:
            known = sizes is not None or not values.shape.rank
            masked = _private_api.keras_mask(output) is not None
            _check_parts(loss, known, sample_weight is not None, masked)
    if values.shape.rank == 0:
        caveat = f"the loss {_name_of(loss)} gives one number for a batch"
        return Term(program.SCALAR, values, caveat=caveat)
    term = _loss_of_values(loss, values, mask, weight, batch.row_weight, of_examples)
    if not of_examples and term.kind == program.EXPLICIT and sizes is not None and not sizes.grows:
        mean = tf.math.divide_no_nan(term.total, term.denominator)
        caveat = f"the loss {_name_of(loss)} gives {values.shape} values, not one for each example"
        return Term(program.SCALAR, mean, caveat=caveat)
    if compares_examples(loss, labels, output):
        caveat = f"the loss {_name_of(loss)} compares the examples of a batch with each other"
        term = term._replace(caveat=caveat)
    return term


def _name_of(loss: keras.losses.Loss) -> str:
    return loss_name(loss) or type(loss).__name__


def _check_parts(loss: keras.losses.Loss, known: bool, weighted: bool, masked: bool) -> None:
    """Refuses a loss without one value per example if its micro-batches do not add up.

    Args:
        loss: applied to a micro-batch.
        known: whether the relation between the batch size and the number of values is known.
        weighted, masked: whether there are sample weights, and a mask.
    """
    name = _name_of(loss)
    if not known:
        raise UserError(
            f"the loss {name} cannot be called with batches of another size, so it is unknown "
            "how to combine it over several parts of a batch; read the number of examples "
            "from its arguments: keras.ops.shape(y_true)[0]."
        )
    scaled = weighted and loss.reduction != "mean_with_sample_weight"
    if (scaled or (masked and is_undivided(loss))) and not _private_api.has_custom_call(loss):
        by = "the sample weights" if weighted else "the mask"
        raise UserError(
            f"the loss {name} does not give one value for each example, and Keras multiplies its "
            f"result by {by}; the sum over several parts of a batch then differs from the result "
            "for the whole batch. Let it return a value for each example (no mean over axis 0), "
            'or train with strategy="one_device" and accumulation_steps=1.'
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
        return Term(program.EXPLICIT, total, tf.reduce_sum(weight), nominal=nominal)
    if mask is not None:
        share = tf.cast(mask, tf.float32)
        if row_weight is not None:
            share = _times_rows(share, row_weight)
        count = _elements_of_row if of_examples else _elements
        each = count(values) / count(share)
        return Term(program.EXPLICIT, total, tf.reduce_sum(share) * each, nominal=nominal)
    if not of_examples:  # for example the tokens of all examples in one dimension
        return Term(program.EXPLICIT, total, _elements(values), nominal=nominal)
    return Term(program.EXAMPLES, total, per_row=_elements_of_row(values))


def custom_loss_term(
    model: keras.Model, loss: tf.Tensor, batch: BatchPart, sizes: Callable
) -> Term:
    """The term of a custom compute_loss, whose values Keras sums.

    Args:
        model: defines the method.
        loss: the result of the method.
        batch: the micro-batch of the result.
        sizes: returns the `Sizes` of the result.
    """
    total = tf.cast(tf.reduce_sum(loss), tf.float32)
    if loss.shape.rank and (batch.is_whole or sizes()[0].grows):
        return Term(program.UNDIVIDED, total)
    caveat = f"{type(model).__name__}.compute_loss gives one number for a batch"
    return Term(program.SCALAR, total, caveat=caveat)


def added_term(
    loss: tf.Tensor, index: int | None, batch: BatchPart, sizes: Callable, uncertain: bool
) -> Term:
    """The term of an add_loss or a regularizer.

    Keras sums a tensor that is passed to add_loss, so one value per example becomes their sum.
    Activity regularizers of Keras layers are means over examples.

    Args:
        loss: one of the model's losses.
        index: its index among the arguments of add_loss; None for a regularizer.
        batch: the micro-batch of the loss.
        sizes: returns the `Sizes` of all arguments of add_loss.
        uncertain: whether the loss may depend on the batch in an unknown way.
    """
    total = tf.cast(tf.reduce_sum(loss), tf.float32)
    if loss.shape.rank and not batch.is_whole and index is not None and sizes()[index].grows:
        return Term(program.UNDIVIDED, total)
    caveat = "a layer's add_loss gives one number for a batch" if uncertain else ""
    return Term(program.ONCE, total, caveat=caveat)


class OutputLosses:
    """Updates the metrics that report the loss of each output of a model."""

    def __init__(self):
        self._kinds: dict[int, str] = {}  # term kinds, by the id of a metric's variable

    def update(self, tracker: keras.metrics.Mean, term: Term, batch: BatchPart) -> None:
        """Adds the loss of a batch to the metric of its output.

        For a micro-batch it adds the summands from which `merge` computes the mean.

        Args:
            tracker: the metric of the output.
            term: the output's loss.
            batch: the batch of the loss.
        """
        if batch.is_whole:
            tracker.update_state(_mean_of(term, batch), sample_weight=batch.count)
            return
        total, denominator = term.total, batch.count
        if term.kind == program.EXAMPLES:
            total /= term.per_row
        elif term.kind == program.EXPLICIT:
            denominator = term.denominator
        elif term.kind == program.SCALAR:
            total *= batch.count
        tracker.total.assign(tracker.total + total)
        tracker.count.assign(tracker.count + denominator)
        self._kinds[id(tracker.total)] = term.kind

    def merge(self, variables: list, metrics: list, examples: tf.Tensor) -> list:
        """Converts the sums over micro-batches to the update of these metrics.

        Args:
            variables: of all metrics.
            metrics: one tensor per variable.
            examples: float32 scalar, the number of examples in the global batch.
        """
        metrics = list(metrics)
        for i, variable in enumerate(variables):
            kind = self._kinds.get(id(variable))
            if kind is None:
                continue
            mean, denominator = metrics[i : i + 2]  # total and count of a keras.metrics.Mean
            if kind != program.UNDIVIDED:
                mean = tf.math.divide_no_nan(mean, denominator)
            metrics[i : i + 2] = mean * examples, examples
        return metrics


def _mean_of(term: Term, batch: BatchPart) -> tf.Tensor:
    """The mean that Keras reports for the loss of one output."""
    if term.kind == program.EXAMPLES:
        return tf.math.divide_no_nan(term.total, batch.count * term.per_row)
    if term.kind == program.EXPLICIT:
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
