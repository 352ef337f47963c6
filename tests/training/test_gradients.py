"""Sums over parts give the gradient of the whole batch, whatever its terms are divided by."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfbig.programs import program
from tfbig.programs.program import Term
from tfbig.training.step import gradients

ROWS = 8  # of a full batch
WEIGHT = tf.constant(3.0)


def terms_of(examples: np.ndarray, weights: np.ndarray, w: tf.Tensor) -> list[Term]:
    """The terms of a model whose example e has the loss w * e, and two others besides."""
    losses = w * tf.constant(examples, tf.float32)
    weighed = tf.reduce_sum(losses**2 * weights)
    return [
        Term(program.EXAMPLES, tf.reduce_sum(losses)),
        Term(
            program.EXPLICIT, weighed, tf.reduce_sum(tf.constant(weights, tf.float32)), nominal=0.5
        ),
        Term(program.SCALAR, tf.reduce_mean(losses**3)),
        Term(program.ONCE, 0.1 * w**2),
        Term(program.UNDIVIDED, tf.reduce_sum(losses) * 0.01),
    ]


def in_parts(cuts: list[int], examples, weights, *, scale=1.0):
    """Loss and gradient from the parts that end at `cuts`."""
    total = None
    for start, stop in zip([0, *cuts], [*cuts, len(examples)], strict=True):
        count = tf.constant(float(stop - start))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(WEIGHT)
            terms = terms_of(examples[start:stop], weights[start:stop], WEIGHT)
            groups = gradients.group_terms(terms, count, ROWS, "mean")
            totals = [g.total for g in groups]
            targets = gradients.targets(groups, totals, scale, whole=False)
        shape = gradients.shape_of(groups)
        sums = gradients.gradient_sums(tape, targets, [WEIGHT])
        part = (sums, totals, [g.denominator for g in groups])
        total = part if total is None else tf.nest.map_structure(tf.add, total, part)
    sums, totals, denominators = total
    (gradient,) = gradients.aggregate(sums, denominators, shape, whole=False)
    return float(gradients.global_loss(totals, denominators, shape)), float(gradient)


def by_hand(examples, weights):
    """Loss and gradient of the whole batch; each term is a power of w times a number."""
    e, v = np.asarray(examples, float), np.asarray(weights, float)
    terms = [
        (1, e.mean()),
        (2, (v * e**2).sum() / v.sum()),
        (3, (e**3).mean()),
        (2, 0.1),
        (1, 0.01 * e.sum()),
    ]
    w = float(WEIGHT)
    loss = sum(factor * w**power for power, factor in terms)
    return loss, sum(factor * power * w ** (power - 1) for power, factor in terms)


EXAMPLES = np.array([0.5, -1.0, 2.0, 0.25, 1.5])
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize(
    "cuts", [[], [2], [1, 2, 4], [0], [5, 5], [0, 3, 3]],
    ids=["whole", "halves", "four", "first empty", "last two empty", "two empty"],
)  # fmt: skip
def test_parts_of_any_size_have_the_gradient_of_the_whole_batch(cuts):
    got = in_parts(cuts, EXAMPLES, WEIGHTS)

    np.testing.assert_allclose(got, by_hand(EXAMPLES, WEIGHTS), rtol=1e-5)


def test_summed_gradients_are_divided_by_nothing_but_a_regularizer_still_counts_once():
    examples = np.array([0.5, -1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(WEIGHT)
        terms = terms_of(examples, np.ones(3), WEIGHT)
        terms = [t for t in terms if t.kind != program.SCALAR]
        groups = gradients.group_terms(terms, tf.constant(3.0), ROWS, "sum")
        target = tf.add_n([
            g.total / (g.denominator if g.divided else 1.0) for g in groups
        ])  # fmt: skip

    loss = 3 * 1.5 + 9 * 5.25 + 0.1 * 9 + 0.01 * 3 * 1.5
    assert float(target) == pytest.approx(loss, rel=1e-6)
    assert float(tape.gradient(target, WEIGHT)) == pytest.approx(
        1.5 + 6 * 5.25 + 0.2 * 3 + 0.015, rel=1e-6
    )


def test_the_loss_scale_multiplies_the_gradient_and_not_the_loss():
    loss, gradient = in_parts([2], EXAMPLES, WEIGHTS)
    scaled_loss, scaled_gradient = in_parts([2], EXAMPLES, WEIGHTS, scale=1024.0)

    assert scaled_loss == loss
    assert scaled_gradient == pytest.approx(1024 * gradient, rel=1e-6)


def test_a_variable_that_one_term_alone_depends_on_gets_that_terms_gradient():
    ours, other = tf.constant(2.0), tf.constant(5.0)
    sums = [[ours, None, None], [None, other, None]]
    shape = gradients.Shape(nominal=(8.0, 1.0), divided=(True, False))
    denominators = [tf.constant(4.0), tf.zeros([])]

    total = gradients.aggregate(sums, denominators, shape, whole=False)

    assert [None if g is None else float(g) for g in total] == [4.0, 5.0, None]


def test_a_batch_whose_weights_are_all_zero_has_the_gradient_zero_and_no_nan():
    shape = gradients.Shape(nominal=(8.0,), divided=(True,))
    (total,) = gradients.aggregate([[tf.zeros([2])]], [tf.zeros([])], shape, whole=False)

    assert total.numpy().tolist() == [0, 0]
    assert float(gradients.global_loss([tf.zeros([])], [tf.zeros([])], shape)) == 0


def test_slices_with_a_row_twice_are_added_up():
    table = tf.Variable([[1.0], [2.0], [3.0]])
    with tf.GradientTape(persistent=True) as tape:
        target = tf.reduce_sum(tf.gather(table, [1, 1, 0]))

    ((gradient,),) = gradients.gradient_sums(tape, [target], [table])

    assert gradient.numpy().tolist() == [[1], [2], [0]]


@pytest.mark.parametrize(("value", "found"), [(math.nan, True), (math.inf, False), (1e30, False)])
def test_nan_is_found_among_the_gradients_and_infinity_is_left_to_the_loss_scale(value, found):
    parts = [tf.ones([3]), None, tf.constant([0.0, value])]

    assert bool(gradients.have_nan(parts)) is found
