"""tfbig.layers.Dropout: a mask that is a function of (seed, step, place)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.layers.batch_position import batch_position_scope, current_position


def mask(layer, rows, *, first=0, step=0, width=6, jit=None):
    """Which units are kept."""

    @tf.function(jit_compile=jit)
    def call(first, step):
        with batch_position_scope(step, first):
            return layer(tf.ones([rows, width]), training=True)

    return call(tf.constant(first), tf.constant(step, tf.int64)).numpy() > 0


def test_a_row_keeps_its_mask_wherever_it_is_computed():
    layer = tfbig.layers.Dropout(0.4, seed=7)
    whole = mask(layer, 32, step=5)
    for first, rows in ((0, 8), (8, 8), (16, 16), (31, 1)):
        part = mask(layer, rows, first=first, step=5)
        np.testing.assert_array_equal(part, whole[first : first + rows])


def test_several_rows_of_each_example_keep_their_masks_too():
    layer = tfbig.layers.Dropout(0.4, seed=7)

    @tf.function
    def call(first, rows):
        with batch_position_scope(tf.constant(5, tf.int64), first, rows):
            return layer(tf.ones([rows * 3, 6]), training=True)

    whole = call(tf.constant(0), tf.constant(8)).numpy()
    for first, rows in ((0, 2), (2, 5), (7, 1), (8, 0)):
        part = call(tf.constant(first), tf.constant(rows)).numpy()
        np.testing.assert_array_equal(part, whole[3 * first : 3 * (first + rows)])


@pytest.mark.parametrize("width", [1, 3, 4, 130])
def test_compiled_or_not_the_mask_is_the_same(width):
    layer = tfbig.layers.Dropout(0.5, seed=7)
    np.testing.assert_array_equal(
        mask(layer, 16, first=3, step=9, width=width, jit=True),
        mask(layer, 16, first=3, step=9, width=width),
    )


def test_steps_places_and_seeds_have_masks_of_their_own():
    layer, other = tfbig.layers.Dropout(0.5, seed=7), tfbig.layers.Dropout(0.5, seed=8)
    masks = [
        mask(layer, 4, width=64),
        mask(layer, 4, width=64, step=1),
        mask(layer, 4, width=64, first=4),
        mask(other, 4, width=64),
    ]
    assert len({m.tobytes() for m in masks}) == 4
    assert len({row.tobytes() for row in masks[0]}) == 4


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_the_units_that_go_is_the_rate_and_the_mean_stays(rate):
    layer = tfbig.layers.Dropout(rate, seed=1)
    with batch_position_scope(tf.constant(0, tf.int64), tf.constant(0)):
        out = layer(np.ones([500, 200], np.float32), training=True).numpy()
    assert abs((out == 0).mean() - rate) < 0.005
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / (1 - rate))}


def test_a_noise_shape_shares_the_mask_within_an_example():
    layer = tfbig.layers.Dropout(0.5, noise_shape=(None, 1, 3), seed=1)
    with batch_position_scope(tf.constant(0, tf.int64), tf.constant(0)):
        out = layer(np.ones([64, 5, 3], np.float32), training=True).numpy()
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1], out.shape))
    assert 0.4 < (out == 0).mean() < 0.6


def test_a_mask_shared_by_all_examples_is_refused():
    with pytest.raises(ValueError, match="pass None as the first entry, or use"):
        tfbig.layers.Dropout(0.5, noise_shape=(1, 3))


def test_inference_and_rate_0_change_nothing_and_rate_1_leaves_nothing():
    inputs = np.ones([2, 3], np.float32)
    with batch_position_scope(tf.constant(0, tf.int64), tf.constant(0)):
        for layer, training in (
            (tfbig.layers.Dropout(0.5), False),
            (tfbig.layers.Dropout(0.0), True),
        ):
            np.testing.assert_array_equal(layer(inputs, training=training), inputs)
        assert not np.any(tfbig.layers.Dropout(1.0)(inputs, training=True))


def test_outside_of_tfbigs_training_it_is_kerass():
    assert current_position() is None
    ours, theirs = tfbig.layers.Dropout(0.5, seed=3), keras.layers.Dropout(0.5, seed=3)
    inputs = np.ones([8, 8], np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(ours(inputs, training=True), theirs(inputs, training=True))


def test_it_is_saved_and_loaded_with_its_seed(tmp_path):
    model = keras.Sequential([keras.Input((6,)), tfbig.layers.Dropout(0.5)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(mask(model.layers[0], 8), mask(loaded.layers[0], 8))


def test_the_place_is_told_to_those_inside_only():
    with batch_position_scope(tf.constant(1, tf.int64), tf.constant(2)):
        with batch_position_scope(tf.constant(3, tf.int64), tf.constant(4)):
            assert int(current_position().step) == 3
        assert int(current_position().first) == 2
    assert current_position() is None
