"""What needs whole batches, and cannot be computed from sums over their parts."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.metric_aggregation import (
    BATCH_MEANS,
    BATCH_SCALARS,
    NOT_ADDITIVE,
    UNKNOWN_KIND,
    WHOLE_BATCHES,
)
from tfbig.programs.program import ONCE, SCALAR, Program, Term


def check_parts(program: Program, placement: Placement, parts: int, *, gathers: bool) -> None:
    """Refuses what would be wrong if batches are computed in parts, or by many workers at once.

    Args:
        program: built.
        placement: of the step.
        parts: of a global batch.
        gathers: whether the step can gather the parts of a batch for the metrics.

    Raises:
        UserError: it names the variable or the metric, and what to write instead.
    """
    if parts > 1:
        how = f"each batch is worked through in {parts} parts"
    else:
        how = f'many workers work at the same time with strategy="{placement.name}"'
    if program.sequential_state:
        names = ", ".join(sorted(program.sequential_state.values()))
        raise UserError(
            f"the model carries {names} over from one batch to the next (stateful=True, or a "
            f"variable that a call assigns), but {how}; write "
            'strategy="one_device" and accumulation_steps=1, or leave the state out.'
        )
    if parts > 1 and program.summed_state:
        raise UserError(
            f"the model counts or adds up {', '.join(program.summed_state)} over the examples of a "
            f"batch, and {how}, whose counts cannot be combined; compute them in input_fn, keep a "
            'moving average instead, or write strategy="one_device" and accumulation_steps=1.'
        )
    wrong = [UNKNOWN_KIND] if parts > 1 else [UNKNOWN_KIND, NOT_ADDITIVE]
    if not gathers and parts > 1:
        wrong += [WHOLE_BATCHES, NOT_ADDITIVE]
    if parts > 1 and program.averaged_state:
        program.warn_once(
            f"the model updates {', '.join(program.averaged_state)} in its calls, and {how}: of "
            "their new values the mean is taken, weighted by examples. That is exact for a mean "
            "over examples, not for a sum or a count"
        )
    numbers = (
        program.describe_metrics(BATCH_SCALARS) if BATCH_SCALARS in program.metric_kinds else ""
    )
    if parts > 1 and numbers:
        raise UserError(
            f"the model gives the metric {numbers} one number for a batch, in call or in "
            f"compute_loss, and {how}, so its value would be wrong; call its update_state with a "
            "value for each example, a tensor of shape [n], which is always exact, or train with "
            'strategy="one_device" and accumulation_steps=1.'
        )
    if parts > 1 and BATCH_MEANS in program.metric_kinds:
        program.warn_once(
            f"the model gives the metric {program.describe_metrics(BATCH_MEANS)} one number for a "
            f"batch, and {how}: of the numbers of the parts the mean is taken, weighted by their "
            "examples. That is exact for a mean over examples; update_state with a value for each "
            "example is always exact"
        )
    names = program.describe_metrics(*wrong) if set(wrong) & set(program.metric_kinds) else ""
    if names:
        raise UserError(
            f"the state of the metric {names} is no sum over examples, and {how}, so its value "
            'would be wrong; train with strategy="one_device" and accumulation_steps=1, compute '
            "it in tfbig.evaluate after training, or write a metric whose variables add up over "
            "examples (a total and a count), updated in compile(metrics=…)."
        )


_ADVICE = {
    SCALAR: "That is exact for a mean over examples, not for one over tokens or for a loss that "
    "compares examples. For a sum over the batch write "
    'RunConfig(gradient_aggregation="sum"); a function that returns the value of each example or '
    "token, say tf.boolean_mask(values, mask), is always exact",
    ONCE: "That is exact for a mean over examples; a value for each example is always exact",
}
_COMPARES = (
    "So an example is compared with those of its part alone; for the numbers of whole batches "
    'train with strategy="one_device" and accumulation_steps=1'
)


def metrics_of_part(
    program: Program, metrics: Sequence[tf.Tensor], count: tf.Tensor, weight: tf.Tensor
) -> list[tf.Tensor]:
    """What a part adds to its global batch's metrics; an empty part adds nothing.

    Args:
        program: of the step.
        metrics: what the part itself gives, one tensor for each of `metric_variables`.
        count: the part's examples.
        weight: their share of the global batch.
    """
    means = [kind == BATCH_MEANS for kind in program.metric_kinds] or [False] * len(metrics)
    return [
        tf.where(count > 0, v * tf.cast(weight, v.dtype) if mean else v, tf.zeros_like(v))
        for v, mean in zip(metrics, means, strict=True)
    ]


def warn_of_doubts(program: Program, terms: Sequence[Term], parts: int, aggregation: str) -> None:
    """Warns once of loss terms that may differ from those of one device.

    Args:
        program: of the step.
        terms: of the loss, on a part of a batch.
        parts: of a global batch.
        aggregation: RunConfig.gradient_aggregation.
    """
    for term in terms:
        summed = term.kind == SCALAR and aggregation == "sum"  # as the user has said
        if term.caveat and not summed:
            program.warn_once(
                f"{term.caveat}, and each batch is worked through in {parts} parts: it is computed "
                "on each part, and the mean over the parts, weighted by their examples, is taken. "
                f"{_ADVICE.get(term.kind, _COMPARES)}"
            )


def gathered(tensor: tf.Tensor, gather_rows: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Gathers the rows of all replicas, inside a replica.

    Args:
        tensor: of shape [n, …].
        gather_rows: of the placement.
    """
    dtype = tensor.dtype
    if dtype.is_bool or dtype == tf.bfloat16:  # collective operations do not accept these
        tensor = tf.cast(tensor, tf.int32 if dtype.is_bool else tf.float32)
    rows = tf.cast(gather_rows(tensor), dtype)
    # A strategy loses the sizes of all dimensions, and Keras's metrics need them.
    return tf.ensure_shape(rows, [None, *tensor.shape[1:]])


def gathered_parts(
    tensors: Sequence[tf.Tensor], most: int, gather_rows: Callable[[tf.Tensor], tf.Tensor]
) -> list[tf.Tensor]:
    """The same for replicas with different n, which change from batch to batch.

    Args:
        tensors: of shape [n, …], with the same n.
        most: the largest n there is.
        gather_rows: of the placement.
    """
    # A collective operation has the same shape in all runs, so each tensor is padded.
    n = tf.shape(tensors[0])[:1]
    real = tf.reshape(tf.sequence_mask(gather_rows(n), most), [-1])

    def of_all(tensor):
        filled = tf.pad(tensor, [[0, most - n[0]], *[[0, 0]] * (tensor.shape.rank - 1)])
        filled = tf.ensure_shape(filled, [most, *tensor.shape[1:]])
        return tf.boolean_mask(gathered(filled, gather_rows), real)

    return [of_all(tensor) for tensor in tensors]
