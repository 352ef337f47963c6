"""Mean and sum, accumulation, unscaling, the finite check and clipping: here and only here.

The order is fixed (docs/numbers.md): add up the micro-batches' gradient sums, reduce them over
the replicas, divide by the true global denominator; the optimizer then unscales, tests for
infinities and clips what is by then the gradient of the whole global batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfbig.layers import indexed_slices
from tfbig.programs import program
from tfbig.programs.program import Term


class Group(NamedTuple):
    """Loss terms that are divided by the same denominator, and so share one backward pass.

    Attributes:
        total: scalar, summed over the part.
        denominator: scalar; the sum over all parts divides the sum of the totals.
        nominal: the denominator's usual size over the global batch. Gradients are computed of
            total / nominal, so that float16 sees gradients of the size of a mean's.
        divided: False: the denominator is 1, whatever the parts say.
    """

    total: tf.Tensor
    denominator: tf.Tensor
    nominal: float
    divided: bool


def group_terms(
    terms: Sequence[Term], count: tf.Tensor, rows: int, aggregation: str
) -> list[Group]:
    """Sorts a part's loss terms into as few groups as there are denominators.

    Args:
        terms: what the program computed from the part.
        count: float32 scalar, the part's number of examples.
        rows: the usual number of examples in the global batch.
        aggregation: RunConfig.gradient_aggregation.

    Returns:
        At least one group, and the same number for every part.
    """
    by_count, undivided, own = [], [], []
    for term in terms:
        if term.kind == program.ONCE:
            by_count.append(_if_any(count, term.total * count))
        elif term.kind == program.UNDIVIDED or aggregation == "sum":
            undivided.append(_if_any(count, term.total))
        elif term.kind == program.SCALAR:
            by_count.append(_if_any(count, term.total * count))
        elif term.kind == program.EXAMPLES:
            by_count.append(term.total / term.per_row)
        else:
            own.append(Group(term.total, term.denominator, term.nominal * rows, True))
    groups = []
    if by_count:
        groups.append(Group(tf.add_n(by_count), count, float(rows), True))
    if undivided:
        groups.append(Group(tf.add_n(undivided), tf.zeros([]), 1.0, False))
    return groups + own


class Shape(NamedTuple):
    """What is known of the groups once a part has been traced."""

    nominal: tuple[float, ...]
    divided: tuple[bool, ...]


def shape_of(groups: Sequence[Group]) -> Shape:
    """What all parts' groups have in common."""
    return Shape(tuple(g.nominal for g in groups), tuple(g.divided for g in groups))


def targets(groups: Sequence[Group], totals: list[tf.Tensor], scale, whole: bool) -> list:
    """What is differentiated for each group: its total, divided by the nominal denominator.

    Args:
        totals: the groups' totals; 0 for a part that does not count.
        scale: the loss scale.
        whole: the part is the whole batch, so its denominators are known to be the true ones and
            are divided by here, where it costs nothing, and not in `aggregate`.
    """
    if not whole:
        return [t / g.nominal * scale for t, g in zip(totals, groups, strict=True)]
    return [
        (tf.math.divide_no_nan(t, g.denominator) if g.divided else t) * scale
        for t, g in zip(totals, groups, strict=True)
    ]


def gradient_sums(tape: tf.GradientTape, targets: list[tf.Tensor], sources: list) -> list[list]:
    """The gradient of each group's scaled total, None where there is none.

    Those of a ShardedEmbedding's tables are slices of distinct rows, all others are dense.
    """
    return [
        [
            indexed_slices.as_kept(gradient, source)
            for gradient, source in zip(tape.gradient(target, sources), sources, strict=True)
        ]
        for target in targets
    ]


def aggregate(sums: list[list], denominators: list[tf.Tensor], shape: Shape, whole: bool) -> list:
    """The gradient of the global batch, still multiplied by the loss scale.

    Args:
        sums: for each group the gradients of total / nominal, summed over all parts.
        denominators: for each group its denominator, summed over all parts.
        whole: as in `targets`.
    """
    total: list = [None] * len(sums[0])
    for gradients, denominator, nominal, divided in zip(sums, denominators, *shape, strict=True):
        factor = tf.math.divide_no_nan(nominal, denominator) if divided else nominal
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                if not whole:
                    gradient = indexed_slices.scaled(gradient, factor)
                total[i] = (
                    gradient if total[i] is None else indexed_slices.added(total[i], gradient)
                )
    if whole and len(sums) == 1:
        return total  # of distinct rows already
    return [indexed_slices.combined(gradient) for gradient in total]


def have_nan(gradients: Sequence) -> tf.Tensor:
    """Whether any gradient has a NaN: one pass over each, as for a norm."""
    values = [indexed_slices.values_of(g) for g in gradients if g is not None]
    squares = [tf.nn.l2_loss(tf.cast(v, tf.float32)) for v in values]
    return tf.math.is_nan(tf.add_n(squares)) if squares else tf.constant(False)


def global_loss(totals: list[tf.Tensor], denominators: list[tf.Tensor], shape: Shape) -> tf.Tensor:
    """The loss of the global batch from its totals and denominators."""
    loss = tf.zeros([])
    for total, denominator, divided in zip(totals, denominators, shape.divided, strict=True):
        loss += tf.math.divide_no_nan(total, denominator) if divided else total
    return loss


def _if_any(count, value):
    return tf.where(count > 0, value, 0.0)  # the mean over no example is NaN
