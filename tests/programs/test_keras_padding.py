"""Batches are padded only for models whose results padding provably does not change.

These tests guard metric_function of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.programs.batches import classes, keras_program, x


def made(*inner, loss="mse", **arguments) -> tuple:
    model = keras.Sequential([keras.Input((4,)), *inner, layers.Dense(3)])
    model.compile("sgd", loss, **arguments)
    return model, x(4), x(3)


def own(labels, outputs):
    return keras.ops.mean(labels - outputs, axis=-1)


class OwnLayer(layers.Layer):
    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0)


class OwnMetric(keras.metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(keras.ops.max(y_pred))


class OwnModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


class OwnSequential(keras.Sequential):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {}


def compiled(model, loss="mse"):
    model.compile("sgd", loss)
    return model, x(4), x(3)


def numbers() -> keras.Model:
    """Its outputs are [n], of which Keras's losses take the mean themselves."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1), layers.Reshape(())])
    model.compile("sgd", "mse")
    return model


def functional(between=lambda tensor: tensor):
    inputs = keras.Input((4,))
    return keras.Model(inputs, between(layers.Dense(4)(inputs)))


def minus_mean(tensor):
    return tensor - keras.ops.mean(tensor, axis=0)


def two_outputs():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(1)(inputs)])
    model.compile("sgd", "mse")
    return model, x(4), (x(3), x(1))


EXACT = {
    "a Sequential": lambda: made(layers.Dense(2, activation="relu"), layers.Dropout(0.5)),
    "a functional model": lambda: compiled(functional(layers.Dense(3))),
    "nested models": lambda: made(functional(), keras.Sequential([layers.Dense(2)])),
    "layers in layers": lambda: made(
        layers.Reshape((2, 2)), layers.Bidirectional(layers.GRU(2)), layers.LayerNormalization()
    ),
    "a regularizer": lambda: made(layers.Dense(2, kernel_regularizer="l2")),
    "an activation of TensorFlow": lambda: made(layers.Dense(2, activation=tf.nn.relu)),
    "an activation layer": lambda: made(layers.Dense(2, activation=layers.LeakyReLU())),
    "metrics of Keras": lambda: made(
        metrics=["mae", keras.metrics.MeanSquaredError()], weighted_metrics=["mape"]
    ),
    "a loss object": lambda: made(loss=keras.losses.Huber(0.1, reduction="sum")),
}
NOT_EXACT = {
    "batch normalisation": lambda: made(layers.BatchNormalization()),
    "nested batch normalisation": lambda: made(keras.Sequential([layers.BatchNormalization()])),
    "wrapped batch normalisation": lambda: made(
        layers.Reshape((2, 2)),
        layers.TimeDistributed(layers.BatchNormalization()),
        layers.Flatten(),
    ),
    "a Lambda": lambda: made(layers.Lambda(minus_mean)),
    "an own layer": lambda: made(OwnLayer()),
    "an operation between layers": lambda: compiled(
        keras.Sequential([keras.Input((4,)), functional(minus_mean), layers.Dense(3)])
    ),
    "an operation of a functional model": lambda: compiled(
        functional(lambda tensor: layers.Dense(3)(minus_mean(tensor)))
    ),
    "an own activation": lambda: made(layers.Dense(2, activation=minus_mean)),
    "an activity regularizer": lambda: made(layers.Dense(2, activity_regularizer="l2")),
    "a layer for it": lambda: made(layers.ActivityRegularization(0.1)),
    "a stateful layer": lambda: made(stateful()),
    "an own loss": lambda: made(loss=own),
    "a loss over the examples": lambda: made(loss=keras.losses.CosineSimilarity(axis=0)),
    "outputs of one dimension": lambda: (numbers(), x(4), x()),
    "an own metric function": lambda: made(metrics=[own]),
    "an own metric": lambda: made(weighted_metrics=[OwnMetric()]),
    "an own metric function in a wrapper": lambda: made(
        metrics=[keras.metrics.MeanMetricWrapper(own)]
    ),
    "a subclassed model": lambda: compiled(OwnModel()),
    "an own Sequential": lambda: compiled(OwnSequential([keras.Input((4,)), layers.Dense(3)])),
    "two losses": two_outputs,
}


def stateful():
    layer = layers.Dense(2)
    layer.stateful = True  # as recurrent layers of a fixed batch size are
    return layer


@pytest.mark.parametrize("case", EXACT)
def test_keras_s_own_layers_losses_and_metrics_may_be_given_padding(case):
    assert keras_program(*EXACT[case]()).exact_with_padding


@pytest.mark.parametrize("case", NOT_EXACT)
def test_all_else_is_given_batches_of_their_true_size(case):
    assert not keras_program(*NOT_EXACT[case]()).exact_with_padding


def test_a_model_of_added_losses_alone_is_given_no_padding():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activity_regularizer="l2")])
    model.compile("sgd")
    assert not keras_program(model, x(4)).exact_with_padding


@pytest.mark.parametrize("build", ["mlp", "cnn"])
def test_the_ready_made_classifiers_may_be_given_padding(build):
    import tfbig

    model = getattr(tfbig.models, build).build()
    program = keras_program(model, x(8, 8, 1), classes(count=10).astype(np.int64))
    assert program.exact_with_padding
