"""Custom compute_loss and compute_metrics methods are called as in `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import (
    batch,
    forward as forwarded,
    keras_program,
    loss_of,
    update_metrics,
    x,
)
from tfbig.errors import UserError
from tfbig.programs.keras.compiled_checks import check_own_methods


def squares(y, y_pred):
    return keras.ops.mean(keras.ops.square(y - y_pred))


class WithoutTraining(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return squares(y, y_pred)


class OtherNames(keras.Model):
    def compute_loss(self, inputs, targets, outputs, weights=None):
        return squares(targets, outputs)


class Anything(keras.Model):
    def compute_loss(self, *arguments, **keywords):
        assert not keywords
        return squares(*arguments[1:3])


class WithTraining(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=None):
        assert training in (True, False)
        return squares(y, y_pred) * (1.0 if training else 3.0)


class AddsToKeras(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight) + squares(y, y_pred)


def built(kind: type, **arguments) -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    model = kind(inputs, layers.Dense(1, **arguments)(inputs))
    model.compile(keras.optimizers.SGD(0.1))
    return model


def data():
    return tf.data.Dataset.from_tensor_slices((x(4), x(1))).batch(3)


@pytest.mark.parametrize("kind", [WithoutTraining, OtherNames, Anything, WithTraining])
def test_a_compute_loss_trains_and_evaluates_as_fit_does_whatever_arguments_it_has(kind):
    expected = built(kind)
    expected.run_eagerly = True
    expected.fit(data(), verbose=0)
    result = tfbig.train_distributed(
        lambda: built(kind),
        data,
        eval_input_fn=data,
        epochs=1,
        strategy="one_device",
        config=tfbig.RunConfig(jit_compile=False),
    )
    for one, other in zip(expected.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    evaluated = expected.evaluate(data(), verbose=0)
    assert result.metrics["loss"] == pytest.approx(evaluated, rel=1e-5)
    assert tfbig.evaluate(result.model, data, metrics=[])["loss"] == pytest.approx(
        evaluated, rel=1e-5
    )


@pytest.mark.parametrize("parts", [1, 3])
def test_a_compute_loss_that_calls_keras_s_counts_regularizers_once_as_fit_does(parts):
    def build():
        return built(AddsToKeras, kernel_regularizer=keras.regularizers.L2(0.5))

    expected = build()
    first = expected.get_weights()[0]
    expected.fit(data(), verbose=0, shuffle=False)
    config = tfbig.RunConfig(jit_compile=False, accumulation_steps=parts)
    result = tfbig.train_distributed(build, data, epochs=1, strategy="one_device", config=config)
    for one, other in zip(expected.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    assert np.abs(expected.get_weights()[0] - first).max() > 0.05


def test_compute_metrics_is_given_the_weights_by_their_name():
    class Own(keras.Model):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.weights_seen = keras.metrics.Mean(name="weights_seen")

        def compute_metrics(self, x, y, y_pred, **keywords):
            self.weights_seen.update_state(keywords["sample_weight"])
            return self.get_metrics_result()

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    weights = np.float32([1, 2, 3, 4, 5, 6])
    program = keras_program(model, x(4), x(1), weights)
    results = update_metrics(program, batch(x(4), x(1), weights))
    assert results == {"weights_seen": pytest.approx(3.5)}
    assert loss_of(forwarded(program, batch(x(4), x(1), weights)).terms) > 0


class TooFew(keras.Model):
    def compute_loss(self, y, y_pred):
        return squares(y, y_pred)


class MetricsWithoutWeight(keras.Model):
    def compute_metrics(self, x, y, y_pred):
        return {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            TooFew,
            "TooFew.compute_loss(y, y_pred) cannot be called as Keras calls it (too many positional"
            " arguments); write def compute_loss(self, x=None, y=None, y_pred=None, "
            "sample_weight=None, training=True).",
        ),
        (
            MetricsWithoutWeight,
            "MetricsWithoutWeight.compute_metrics(x, y, y_pred) cannot be called as Keras calls it "
            "(got an unexpected keyword argument 'sample_weight'); write def compute_metrics(self, "
            "x, y, y_pred, sample_weight=None).",
        ),
    ],
)
def test_what_fit_could_not_call_either_is_refused(kind, message):
    with pytest.raises(UserError) as raised:
        check_own_methods(built(kind))
    assert str(raised.value) == message
