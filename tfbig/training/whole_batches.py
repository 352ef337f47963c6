"""What has to be done with whole batches, and cannot be put together from their parts."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.metric_sums import NOTHING, UNSEEN, UPDATES
from tfbig.programs.program import SCALAR, Program, Term


def check_parts(program: Program, placement: Placement, parts: int, *, gathers: bool) -> None:
    """Refuses what would be wrong if each batch is worked through in parts, or by many workers.

    Args:
        program: built.
        placement: of the step.
        parts: of a global batch.
        gathers: whether the step can bring the parts of a batch together for the metrics.

    Raises:
        UserError: it names the variable or the metric, and what to write instead.
    """
    if parts > 1:
        how = f"each batch is worked through in {parts} parts"
    else:
        how = f'many workers work at the same time with strategy="{placement.name}"'
    if program.in_sequence:
        names = ", ".join(sorted(program.in_sequence.values()))
        raise UserError(
            f"the model carries {names} over from one batch to the next (stateful=True, or a "
            f"variable that a call assigns), but {how}; write "
            'strategy="one_device" and accumulation_steps=1, or leave the state out.'
        )
    wrong = [UNSEEN] if parts > 1 else [UNSEEN, NOTHING]
    if not gathers and parts > 1:
        wrong += [UPDATES, NOTHING]
    if parts > 1 and program.averaged:
        program.warn_once(
            f"the model updates {', '.join(program.averaged)} in its calls, and {how}: of their "
            "new values the mean is taken, weighted by examples. That is exact for a mean over "
            "examples, not for a sum or a count"
        )
    names = program.named_metrics(*wrong) if set(wrong) & set(program.metric_sums) else ""
    if names:
        raise UserError(
            f"the state of the metric {names} is no sum over examples, and {how}, so its value "
            'would be wrong; train with strategy="one_device" and accumulation_steps=1, compute '
            "it in tfbig.evaluate after training, or write a metric whose variables add up over "
            "examples (a total and a count), updated in compile(metrics=…)."
        )


def warn_of_doubts(program: Program, terms: Sequence[Term], parts: int, aggregation: str) -> None:
    """Warns once of loss terms that may not be those of one device, and how they are computed.

    Args:
        program: of the step.
        terms: of the loss, on a part of a batch.
        parts: of a global batch.
        aggregation: RunConfig.gradient_aggregation.
    """
    for term in terms:
        summed = term.kind == SCALAR and aggregation == "sum"  # as the user has said
        if term.doubt and not summed:
            advice = (
                'for a sum over the batch write RunConfig(gradient_aggregation="sum"); '
                if term.kind == SCALAR
                else ""
            )
            program.warn_once(
                f"{term.doubt}, and each batch is worked through in {parts} parts: it is computed "
                "on each part, and the mean over the parts, weighted by their examples, is taken. "
                f"That is exact for a mean over examples; {advice}a value for each example is "
                "always exact"
            )


def gathered(tensor: tf.Tensor, gather_rows: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """The rows of all replicas, inside a replica.

    Args:
        tensor: of shape [n, …]; n may differ.
        gather_rows: of the placement.
    """
    dtype = tensor.dtype
    if dtype.is_bool or dtype == tf.bfloat16:  # which collective operations do not take
        tensor = tf.cast(tensor, tf.int32 if dtype.is_bool else tf.float32)
    return tf.cast(gather_rows(tensor), dtype)
