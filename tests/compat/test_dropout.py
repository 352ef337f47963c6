"""tfbig.compat.v1.layers.dropout: TF1's outside of tfbig's training, by place within it."""

import numpy as np
import pytest
import tensorflow as tf

from tests.compat.graphs import ran, v1
from tfbig.compat.v1 import layers
from tfbig.layers.batch_position import batch_position_scope

ONES = np.ones([400, 50], "float32")


@pytest.mark.parametrize("given", [True, "tensor"])
def test_a_share_is_dropped_and_the_rest_is_scaled(given):
    def build(x):
        training = v1.placeholder_with_default(True, []) if given == "tensor" else given
        return layers.dropout(x, 0.25, training=training)

    y = ran(build, ONES).outputs[0]
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02


def test_a_noise_shape_is_one_mask_for_what_it_leaves_out():
    y = ran(lambda x: layers.dropout(x, noise_shape=[None, 1], training=True), ONES).outputs[0]
    assert (y == y[:, :1]).all()
    assert 0 < (y == 0).mean() < 1


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [(dict(), 1), (dict(rate=0.0, training=True), 1), (dict(rate=1.0, training=True), 0)],
)
def test_outside_training_and_at_the_ends_nothing_is_drawn(keywords, expected):
    y = ran(lambda x: layers.dropout(x, **keywords), ONES).outputs[0]
    assert (y == expected).all()


def masks(rows, first, *, step=0, seed=None, of_graph=11, build=None):
    """What is kept of `rows` rows that begin at a place of the global batch."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(of_graph)
        with batch_position_scope(tf.constant(step, tf.int64), tf.constant(first)):
            x = tf.ones([rows, 24])
            built = build(x) if build else [layers.dropout(x, training=True, seed=seed)]
        return [y > 0 for y in session.run(built)]


def test_in_training_a_rows_mask_depends_on_its_place_alone():
    (whole,) = masks(12, 0)
    for first, rows in ((0, 5), (5, 7)):
        np.testing.assert_array_equal(masks(rows, first)[0], whole[first : first + rows])
    assert 0.3 < whole.mean() < 0.7


def test_steps_seeds_and_layers_have_masks_of_their_own():
    def build(x):
        drop = dict(training=True, name="drop")
        with v1.variable_scope("a"):
            twice = [layers.dropout(x, **drop), layers.dropout(x, **drop)]
        return [*twice, layers.dropout(x, training=True), layers.dropout(x, training=True)]

    found = [
        *masks(8, 0, build=build), *masks(8, 0, step=1), *masks(8, 0, of_graph=12),
        *masks(8, 0, seed=4), *masks(8, 0, seed=5),
    ]  # fmt: skip
    assert len({mask.tobytes() for mask in found}) == len(found) == 8
    again = masks(8, 0, build=build)
    assert [m.tobytes() for m in again] == [m.tobytes() for m in found[:4]]
