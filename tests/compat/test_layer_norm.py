"""tfbig.compat.v1.contrib.layers.layer_norm: tf.contrib's numbers, variables and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.compat.graphs import numbers, ran
from tfbig.compat.v1.contrib.layers import layer_norm
from tfbig.errors import UserError

v1 = tf.compat.v1
X = 3.0 + 2.0 * numbers(2, 3, 4)


@pytest.mark.parametrize(("begin", "axes"), [(-1, (2,)), (2, (2,)), (1, (1, 2))])
def test_it_normalizes_over_the_last_axes(begin, axes):
    found = ran(lambda x: layer_norm(x, begin_norm_axis=begin), X)
    mean, variance = X.mean(axes, keepdims=True), X.var(axes, keepdims=True)
    np.testing.assert_allclose(found.outputs[0], (X - mean) / np.sqrt(variance), atol=1e-5)
    assert found.shape.as_list() == [None, 3, 4]


def test_it_is_the_layer_of_keras_with_the_epsilon_of_contrib():
    values = {"LayerNorm/beta": numbers(4, seed=1), "LayerNorm/gamma": numbers(4, seed=2)}
    found = ran(lambda x: layer_norm(x, begin_norm_axis=-1), X, values=values)
    layer = keras.layers.LayerNormalization(epsilon=1e-12)
    layer.build(X.shape)
    layer.set_weights([values["LayerNorm/gamma"], values["LayerNorm/beta"]])
    np.testing.assert_allclose(found.outputs[0], layer(X), atol=1e-5)


def test_its_variables_are_in_the_scope_with_the_names_of_contrib():
    def build(x):
        with v1.variable_scope("bert"):
            x = layer_norm(layer_norm(x, begin_norm_axis=-1), begin_norm_axis=-1)
            x = layer_norm(x, begin_norm_axis=-1, scope="LayerNorm", reuse=True)
        return layer_norm(x, scale=False, trainable=False, variables_collections=["mine"])

    found = ran(build, X)
    numbered = ["bert/LayerNorm/beta", "bert/LayerNorm/gamma", "bert/LayerNorm_1/beta"]
    assert [*found.trainable] == [*numbered, "bert/LayerNorm_1/gamma"]
    assert set(found.variables) == {*found.trainable, "LayerNorm/beta"}


def test_beta_and_gamma_have_the_shape_of_the_axes_and_an_activation_is_last():
    found = ran(lambda x: layer_norm(x, begin_params_axis=1, activation_fn=tf.nn.relu), X)
    assert found.variables["LayerNorm/gamma"].shape == (3, 4)
    assert found.outputs[0].min() == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin_norm_axis": 3}, r"layer_norm\(begin_norm_axis=3\): expected an axis of the inp"),
        ({"begin_params_axis": 0}, r"beta and gamma would have shape \(None, 3, 4\)"),
        ({"outputs_collections": "c"}, r"layer_norm\(outputs_collections=…\) is not supported"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        ran(lambda x: layer_norm(x, **arguments), X)
