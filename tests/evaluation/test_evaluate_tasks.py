"""The task that tfbig.evaluate infers from labels, predictions and the loss."""

import logging
import math

import keras
import numpy as np
import pytest

import tfbig
from tests.training.small_runs import arrays
from tfbig.errors import UserError
from tfbig.evaluation.statistics import bootstrap

X, Y = arrays(100)


def source(labels, *weights):
    return lambda: tfbig.data.ArraySource((X, labels, *weights)).batch(32)


def dense(units, loss, activation=None, metrics=()):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(units, activation=activation)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile("adam", loss, metrics=list(metrics))
    return model


def test_the_accuracy_of_logits_is_correct_where_keras_reads_them_as_probabilities():
    labels = (Y == 0).astype("int32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = dense(1, loss, metrics=["accuracy"])
    figures = tfbig.evaluate(model, source(labels))
    logits = model.predict(X, verbose=0)[:, 0]
    assert figures["accuracy"] == np.mean((logits > 0) == labels)
    assert figures["compiled_accuracy"] == pytest.approx(np.mean((logits > 0.5) == labels))
    assert figures["loss"] == pytest.approx(figures["log_loss"], abs=1e-6)
    assert {"precision", "recall", "f1", "roc_auc"} < figures.keys()


def test_logits_between_0_and_1_are_logits_if_the_loss_has_from_logits():
    model = dense(1, keras.losses.BinaryCrossentropy(from_logits=True))
    model.set_weights([np.zeros((8, 1)), np.array([0.4])])  # 0.4 as a probability would be "no"
    figures = tfbig.evaluate(model, source(np.ones(100, "int32")), metrics=["accuracy"])
    assert figures["accuracy"] == 1


def test_counts_of_0_and_1_are_a_regression_if_the_loss_is_one():
    figures = tfbig.evaluate(dense(1, "mse"), source((Y == 0).astype("float32")))
    assert list(figures) == ["loss", "mae", "rmse", "r2"]
    assert figures["rmse"] ** 2 == pytest.approx(figures["loss"], abs=1e-6)
    figures = tfbig.evaluate(dense(1, "mse", "sigmoid"), source(Y % 2), task="binary")
    assert "roc_auc" in figures


def language_model(vocabulary):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Embedding(vocabulary, 4), keras.layers.Dense(vocabulary)]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("vocabulary", [256, 10])
def test_a_language_model_has_perplexity_and_over_bytes_bits(vocabulary):
    model = language_model(vocabulary)
    tokens = np.random.default_rng(0).integers(0, vocabulary, [30, 7])
    text = (tokens[:, :-1], tokens[:, 1:])
    figures = tfbig.evaluate(model, lambda: tfbig.data.ArraySource(text).batch(8), intervals=40)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]), rel=1e-6)
    assert ("bits_per_byte" in figures) == (vocabulary == 256)
    # A resample is of sequences, not of tokens.
    expected = bootstrap("perplexity", text[1], model.predict(text[0], verbose=0), samples=40)
    interval = figures["intervals"]["perplexity"]
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_a_model_with_two_outputs_has_only_its_compiled_metrics(caplog):
    inputs = keras.Input((8,))
    outputs = {"a": keras.layers.Dense(3)(inputs), "b": keras.layers.Dense(1)(inputs)}
    model = keras.Model(inputs, outputs)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", {"a": crossentropy, "b": "mse"}, metrics={"a": "accuracy", "b": "mae"})
    both = {"a": Y, "b": X[:, :1]}
    with caplog.at_level(logging.INFO, "tfbig"):
        figures = tfbig.evaluate(model, source(both))
    expected = model.evaluate(X, both, batch_size=100, verbose=0, return_dict=True)
    assert figures == pytest.approx(expected, abs=1e-5)
    assert "metrics that the model is compiled with are computed: there are 2 labels" in caplog.text
    with pytest.raises(UserError, match="there are 2 labels; hold-out metrics need one array of"):
        tfbig.evaluate(model, source(both), metrics=["accuracy"])


def test_several_labels_per_example_are_not_a_regression():
    labels = np.random.default_rng(0).integers(0, 2, [100, 3]).astype("float32")
    model = dense(3, "binary_crossentropy", "sigmoid", metrics=["binary_accuracy"])
    assert list(tfbig.evaluate(model, source(labels))) == ["loss", "binary_accuracy"]


def test_an_autoencoder_that_adds_its_loss_needs_no_labels():
    @keras.saving.register_keras_serializable("test_evaluate_tasks")
    class Error(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x**2))
            return x

    inputs = keras.Input((8,))
    model = keras.Model(inputs, Error()(inputs))
    model.compile("adam")
    figures = tfbig.evaluate(model, lambda: tfbig.data.ArraySource(X).batch(32))
    assert figures == {"loss": pytest.approx(np.mean(X**2), rel=1e-6)}


def test_a_model_with_its_own_test_step_has_only_the_metrics(caplog):
    class Own(keras.Sequential):
        def test_step(self, data):
            raise NotImplementedError

    model = Own([keras.Input((8,)), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with caplog.at_level(logging.INFO, "tfbig"):
        figures = tfbig.evaluate(model, source(Y), metrics=["accuracy"])
    assert list(figures) == ["accuracy"]
    assert "the loss and the compiled metrics are not computed: Own has its own test_step" in (
        caplog.text
    )


def test_a_model_that_cannot_be_rebuilt_is_evaluated_on_one_device():
    class Own(keras.Model):
        def __init__(self, units):  # the config lacks it
            super().__init__()
            self.dense = keras.layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    model = Own(3)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", crossentropy, metrics=["accuracy"])
    model.fit(X, Y, verbose=0)
    figures = tfbig.evaluate(model, source(Y), metrics=["accuracy"])
    expected = model.evaluate(X, Y, batch_size=100, verbose=0, return_dict=True)
    assert figures == pytest.approx(expected, abs=1e-5)
    assert isinstance(model.optimizer, keras.optimizers.Adam)


def test_a_confusion_matrix_of_too_many_classes_is_left_out_unless_requested():
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = dense(4097, crossentropy)
    figures = tfbig.evaluate(model, source(Y))
    assert "confusion_matrix" not in figures
    assert "accuracy" in figures
    with pytest.raises(UserError, match="a confusion matrix of 4097 classes is too large"):
        tfbig.evaluate(model, source(Y), metrics=["confusion_matrix"])
