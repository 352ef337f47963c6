"""tfbig.compat.v1.layers.batch_normalization: TF1's names, formula, and moving averages."""

import numpy as np
import pytest
import tensorflow as tf

from tests.compat.graphs import numbers, ran, v1
from tfbig.compat.v1 import layers

NAMES = [f"batch_normalization/{n}" for n in ("gamma", "beta", "moving_mean", "moving_variance")]


def start(channels, seed=3):
    """Weights that are not what they are initialized to."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=[4, channels]).astype("float32")
    values[3] = np.abs(values[3]) + 0.5
    return dict(zip(NAMES, values, strict=True))


def normalized(x, axis, training, epsilon, values):
    """TF1's formula in float64: the outputs, the batch's mean, and its variance."""
    x = np.moveaxis(x.astype("float64"), axis, -1)
    axes = tuple(range(x.ndim - 1))
    gamma, beta, mean, variance = (values[n].astype("float64") for n in NAMES)
    if training:
        mean, variance = x.mean(axes), x.var(axes)
    y = (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return np.moveaxis(y, -1, axis), mean, variance


@pytest.mark.parametrize("given", [True, False, "tensor"])
@pytest.mark.parametrize(
    ("shape", "keywords", "fused"),
    [
        ((12, 5), {}, False),
        ((6, 4, 5), dict(momentum=0.7, epsilon=1e-2), False),
        ((6, 5, 4), dict(axis=1), False),
        ((4, 3, 2, 5), dict(momentum=0.9), True),
        ((4, 3, 2, 5), dict(axis=[3], fused=False), False),
    ],
)
def test_the_numbers_are_those_of_the_formula(shape, keywords, fused, given):
    x = numbers(*shape, seed=1) * 2 + 1
    values = start(5)
    for training in [True, False] if given == "tensor" else [given]:
        told = tf.identity(training) if given == "tensor" else training

        def build(x, told=told, training=training):
            told = v1.placeholder_with_default(training, []) if given == "tensor" else told
            return layers.batch_normalization(x, training=told, **keywords)

        found = ran(build, x, values=values, updates=True)
        axis = np.ravel(keywords.get("axis", -1))[0]
        epsilon = keywords.get("epsilon", 1e-3)
        y, mean, variance = normalized(x, axis, training, epsilon, values)
        np.testing.assert_allclose(found.outputs[0], y, atol=2e-5)
        assert list(found.variables) == NAMES
        assert found.trainable == NAMES[:2]
        rows = x.size // 5
        after = (mean, variance * (rows / (rows - 1) if fused else 1.0))  # unbiased, as in TF1
        for name, new in zip(NAMES[2:], after, strict=True):
            decay = keywords.get("momentum", 0.99) if training else 1.0
            expected = values[name] * decay + new * (1 - decay)
            np.testing.assert_allclose(found.variables[name], expected, rtol=1e-5)


def test_outside_training_there_is_nothing_to_update():
    with tf.Graph().as_default():
        layers.batch_normalization(tf.ones([2, 3]), training=False)
        assert v1.get_collection(v1.GraphKeys.UPDATE_OPS) == []
        layers.batch_normalization(tf.ones([2, 3]), training=True)
        assert len(v1.get_collection(v1.GraphKeys.UPDATE_OPS)) == 2


def test_the_averages_move_only_where_update_ops_are_run():
    x = numbers(6, 5)
    found = ran(lambda x: layers.batch_normalization(x, training=True), x, values=start(5))
    np.testing.assert_array_equal(found.variables[NAMES[2]], start(5)[NAMES[2]])


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 3, 5)])
def test_a_batch_of_nothing_changes_no_average(shape):
    def build(x):
        return layers.batch_normalization(x, training=True)

    found = ran(build, numbers(*shape), values=start(5), updates=True)
    for name in NAMES[2:]:
        np.testing.assert_array_equal(found.variables[name], start(5)[name])


def test_without_scale_and_center_there_are_the_averages_alone():
    def build(x):
        return layers.batch_normalization(x, scale=False, center=False, name="bn", training=True)

    found = ran(build, numbers(6, 5))
    assert list(found.variables) == ["bn/moving_mean", "bn/moving_variance"]
    np.testing.assert_allclose(found.outputs[0].mean(0), np.zeros(5), atol=1e-6)


def test_half_precision_keeps_its_statistics_in_float32():
    x = numbers(6, 2, 2, 5).astype("float16")
    found = ran(lambda x: layers.batch_normalization(x, training=True), x, updates=True)
    assert found.outputs[0].dtype == "float16"
    assert {v.dtype.name for v in found.variables.values()} == {"float32"}


def test_regularizers_of_gamma_and_beta_are_losses():
    l2 = tf.keras.regularizers.L2(1.0)

    def build(x):
        return layers.batch_normalization(x, gamma_regularizer=l2, beta_regularizer=l2)

    assert ran(build, numbers(6, 5)).regularization == [5.0, 0.0]
