"""Losses, metrics and labels of several outputs train as in `fit`, or an error names the output.

These tests guard check_compiled of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import x
from tfbig.errors import UserError

A, B = x(3), x(2, seed=1)


def two(kind=dict, **compiled) -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((4,))
    outputs = {"a": layers.Dense(3, name="a")(inputs), "b": layers.Dense(2, name="b")(inputs)}
    model = keras.Model(inputs, outputs if kind is dict else list(outputs.values()))
    model.compile(keras.optimizers.SGD(0.1), **compiled)
    return model


def trained(build, labels) -> tfbig.TrainResult:
    def input_fn():
        return tf.data.Dataset.from_tensor_slices((x(4, seed=5), labels)).batch(4)

    return tfbig.train_distributed(
        build,
        input_fn,
        eval_input_fn=input_fn,
        epochs=1,
        strategy="one_device",
        config=tfbig.RunConfig(jit_compile=False),
    )


AS_FIT = {
    "a loss for each": (dict, dict(loss={"a": "mse", "b": "mae"}), {"a": A, "b": B}),
    "None for one": (dict, dict(loss={"a": "mse", "b": None}), {"a": A, "b": B}),
    "one in the dict, labels for both": (dict, dict(loss={"a": "mse"}), {"a": A, "b": B}),
    "None in a list": (list, dict(loss=["mse", None]), (A, B)),
    "weights of losses": (
        dict,
        dict(loss={"a": "mse", "b": "mae"}, loss_weights={"a": 0.5, "b": 2.0}),
        {"a": A, "b": B},
    ),
    "metrics of one": (
        dict,
        dict(loss={"a": "mse", "b": "mae"}, metrics={"b": ["mse"]}),
        {"a": A, "b": B},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AS_FIT)
def test_what_fit_trains_is_trained_with_its_weights(name):
    kind, compiled, labels = AS_FIT[name]
    expected = two(kind, **compiled)
    data = tf.data.Dataset.from_tensor_slices((x(4, seed=5), labels)).batch(4)
    expected.fit(data, verbose=0)
    model = trained(lambda: two(kind, **compiled), labels).model
    for new, old in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


REFUSED = {
    "labels of another name": (
        dict,
        dict(loss={"a": "mse"}),
        {"a": A, "c": B},
        "leave out 'c' in the dict of labels",
    ),
    "labels of one with a loss are missing": (
        dict,
        dict(loss={"a": "mse", "b": "mae"}),
        {"a": A},
        "add 'b' in the dict of labels",
    ),
    "metrics, and no labels for one": (
        dict,
        dict(loss={"a": "mse"}, metrics={"a": ["mae"]}),
        {"a": A},
        "no labels for the output 'b'",
    ),
    "a loss of no output": (
        dict,
        dict(loss={"a": "mse", "c": "mae"}),
        {"a": A, "b": B},
        "does not match the outputs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_with_what_to_write(name):
    kind, compiled, labels, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        trained(lambda: two(kind, **compiled), labels)


def test_labels_of_an_evaluation_are_looked_at_before_training():
    def data(labels):
        return lambda: tf.data.Dataset.from_tensor_slices((x(4), labels)).batch(4)

    with pytest.raises(UserError, match="^eval_input_fn gives labels for 'a'"):
        tfbig.train_distributed(
            lambda: two(loss={"a": "mse", "b": "mae"}),
            data({"a": A, "b": B}),
            eval_input_fn=data({"a": A}),
            epochs=1,
            strategy="one_device",
        )
