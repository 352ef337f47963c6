"""Sample weights are applied to the outputs that they belong to."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.programs.batches import batch, forward, keras_program, loss_of
from tfbig.errors import UserError
from tfbig.programs.keras.loss_terms import loss_term

RNG = np.random.RandomState(0)
X = RNG.randn(4, 6).astype("f4")
LABELS = {"a": RNG.randint(0, 3, 4), "b": X[:, :1]}
WEIGHTS = {"a": RNG.rand(4).astype("f4"), "b": RNG.rand(4).astype("f4")}


def cross_entropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def model(outputs: type, losses: type, loss_of_b="mse") -> keras.Model:
    inputs = keras.Input((6,))
    made = {
        name: keras.layers.Dense(units, kernel_initializer="zeros", name=name)(inputs)
        for name, units in (("a", 3), ("b", 1))
    }
    made = keras.Model(inputs, made if outputs is dict else list(made.values()))
    loss = {"a": cross_entropy(), "b": loss_of_b}
    made.compile("sgd", loss if losses is dict else list(loss.values()))
    return made


def of_kind(kind: type, values: dict):
    return values if kind is dict else kind(values.values())


def weighted_loss(made: keras.Model, *element) -> float:
    program = keras_program(made, X, *element)
    return loss_of(forward(program, batch(X, *element)).terms, count=4)


def test_weights_by_name_or_place_go_with_outputs_by_name_or_place():
    expected = np.mean(WEIGHTS["a"] * np.log(3)) + np.mean(WEIGHTS["b"] * X[:, 0] ** 2)
    for kinds in itertools.product((dict, list), (dict, tuple), (dict, tuple)):
        found = weighted_loss(model(kinds[0], dict), *map(of_kind, kinds[1:], (LABELS, WEIGHTS)))
        assert found == pytest.approx(expected, rel=1e-5), kinds


@pytest.mark.parametrize("outputs", [dict, list])
def test_an_output_without_a_loss_needs_no_weights(outputs):
    alone = {"a": WEIGHTS["a"]}
    found = weighted_loss(model(outputs, dict, loss_of_b=None), LABELS, alone)
    assert found == pytest.approx(np.mean(WEIGHTS["a"] * np.log(3)), rel=1e-5)


@pytest.mark.parametrize("outputs", [dict, list])
def test_weights_for_some_or_other_outputs_are_refused(outputs):
    for weights in ({"a": WEIGHTS["a"]}, {**WEIGHTS, "c": WEIGHTS["a"]}, (WEIGHTS["a"],)):
        with pytest.raises(UserError, match="has a loss for 'a', 'b'; give one array for all"):
            weighted_loss(model(outputs, dict), LABELS, weights)


def total(labels, outputs, weights, loss=None) -> float:
    given = batch(outputs, labels)
    return float(loss_term(loss or cross_entropy(), labels, outputs, weights, given).total)


def test_weights_of_fewer_dimensions_than_the_loss_weigh_whole_examples():
    labels, outputs = tf.zeros([3, 3], tf.int32), tf.random.normal([3, 3, 2], seed=1)
    each = cross_entropy(reduction="none")(labels, outputs).numpy()
    weight = np.array([1.0, 2.0, 5.0], "f4")
    for shape in ([3], [3, 1]):  # Keras would weigh the time steps with the first
        found = total(labels, outputs, tf.reshape(weight, shape))
        assert found == pytest.approx((weight[:, None] * each).sum(), rel=1e-6)
    pixels = tf.zeros([3, 2, 4], tf.int32), tf.random.normal([3, 2, 4, 2], seed=2)
    each = cross_entropy(reduction="none")(*pixels).numpy()
    expected = (weight[:, None, None] * each).sum()
    assert total(*pixels, tf.constant(weight)) == pytest.approx(expected, rel=1e-6)
    column = total(*pixels, tf.reshape(weight, [3, 1, 1]))
    assert column == pytest.approx(expected, rel=1e-6)


def test_weights_of_more_dimensions_than_the_loss_are_refused():
    labels = outputs = tf.zeros([3, 3])
    message = (
        r"have the shape \[n, 3\], but the loss 'mean_squared_error' has values of shape \[n\]"
    )
    with pytest.raises(UserError, match=message):
        total(labels, outputs, tf.ones([3, 3]), keras.losses.MeanSquaredError())
    assert total(labels, outputs + 1, tf.ones([3, 1]), keras.losses.MeanSquaredError()) == 3
