"""Metrics that a model itself updates, in `call` or `compute_loss`.

These tests guard trace_symbolically of tfbig._private_api.
"""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfbig
from tests.programs.batches import keras_program, x
from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.metric_aggregation import BATCH_MEANS, BATCH_SCALARS, PARTS, is_sum

random = np.random.default_rng(0)
FEATURES = random.normal(size=(11, 4)).astype("float32")  # batches of 4, 4 and 3
LABELS = random.normal(size=(11, 2)).astype("float32")


def rows() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(4)


class Model(keras.Model):
    """Gives `give(squares, metric)` the squared errors [n, 2] in compute_loss."""

    def __init__(self, *arguments, metric=None, give=None, **keywords):
        super().__init__(*arguments, **keywords)
        self.given, self.give = metric, give

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        squares = ops.square(y - y_pred)
        self.give(squares, self.given)
        return ops.mean(squares)


def built(metric, give, metrics=()) -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((4,))
    model = Model(inputs, layers.Dense(2)(inputs), metric=metric(), give=give)
    model.compile(keras.optimizers.SGD(0.1), metrics=list(metrics))
    return model


def logs(build, accumulation: int) -> list[dict]:
    """Of the epochs, and of the evaluation."""
    seen = []

    logged = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(dict(logs)))
    result = tfbig.train_distributed(
        build,
        rows,
        eval_input_fn=rows,
        strategy="one_device",
        epochs=2,
        callbacks=[logged],
        config=tfbig.RunConfig(accumulation_steps=accumulation, jit_compile=False),
    )
    return [*seen, result.metrics]


def expected(build, name: str) -> list[float]:
    model = build()
    history = model.fit(rows(), epochs=2, shuffle=False, verbose=0).history[name]
    return [*history, model.evaluate(rows(), verbose=0, return_dict=True)[name]]


def mean() -> keras.metrics.Metric:
    return keras.metrics.Mean(name="given")


def number(squares, metric):
    metric.update_state(ops.mean(squares))


def numbers_of_outputs(squares, metric):
    metric.update_state(ops.mean(squares, axis=0), sample_weight=[3.0, 1.0])


def by_example(squares, metric):
    metric.update_state(ops.mean(squares, axis=1), sample_weight=squares[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("give", [number, numbers_of_outputs, by_example])
def test_a_mean_of_a_model_s_own_is_that_of_fit(give, accumulation, caplog):
    def build():
        return built(mean, give)

    with caplog.at_level(logging.WARNING, "tfbig"):
        found = [one["given"] for one in logs(build, accumulation)]
    assert found == pytest.approx(expected(build, "given"), rel=1e-5)
    said = [r.getMessage() for r in caplog.records if "metric given (Mean)" in r.getMessage()]
    assert len(said) == (give is not by_example and accumulation == 2)
    assert not said or "update_state with a value for each example is always exact" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "give"),
    [
        (lambda: keras.metrics.Sum(name="given"), number),
        # Whether the weight is the number of examples or is the same for each batch, none can see.
        (mean, lambda s, m: m.update_state(ops.mean(s), sample_weight=ops.shape(s)[0])),
        (
            lambda: keras.metrics.MeanSquaredError(name="given"),
            lambda s, m: m.update_state(ops.max(s, 0, True), ops.min(s, 0, True)),
        ),
    ],
)
def test_one_number_for_a_batch_is_refused_in_parts_if_no_mean_says_what_it_is(metric, give):
    def build():
        return built(metric, give)

    with pytest.raises(UserError, match=r"metric given \(\w+\) one number .* of shape \[n\]"):
        logs(build, 2)
    found = [one["given"] for one in logs(build, 1)]
    assert found == pytest.approx(expected(build, "given"), rel=1e-5)


@pytest.mark.parametrize(
    ("give", "kind"), [(number, BATCH_MEANS), (by_example, PARTS), (lambda s, m: None, PARTS)]
)
def test_what_a_metric_is_given_is_seen_in_a_trace(give, kind):
    assert keras_program(built(mean, give), x(4), x(2)).metric_kinds == [kind, kind]


def test_a_number_that_a_model_gives_in_evaluation_alone_is_seen():
    class Layer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.given = keras.metrics.Sum(name="given")

        def call(self, inputs, training=False):
            if not training:
                self.given.update_state(ops.max(inputs))
            return inputs

    model = keras.Sequential([keras.Input((4,)), Layer(), layers.Dense(2)])
    model.compile("sgd", "mse")
    assert keras_program(model, x(4), x(2)).metric_kinds == [BATCH_SCALARS]


class Seen(keras.metrics.Metric):
    def __init__(self, name="given"):
        super().__init__(name=name)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, value):
        self.total.assign_add(value)

    def result(self):
        return self.total


def test_a_metric_of_the_model_s_own_is_refused_beside_one_that_cannot_be_tried():
    def picky(labels, outputs):
        with tf.control_dependencies([tf.debugging.assert_less(labels, -2.0)]):
            return ops.mean(ops.abs(labels - outputs), -1)

    with pytest.raises(UserError, match=r"state of the metric given \(Seen\) is no sum"):
        logs(lambda: built(Seen, number, [picky]), 2)


@pytest.mark.parametrize(
    ("metric", "sums"),
    [
        (keras.metrics.MeanMetricWrapper(keras.losses.mean_squared_error), True),
        (keras.metrics.MeanMetricWrapper(keras.losses.dice), False),
        (keras.metrics.MeanMetricWrapper(keras.losses.MeanSquaredError()), False),
        (keras.metrics.CosineSimilarity(axis=1), True),
        (keras.metrics.PearsonCorrelation(axis=0), False),
    ],
)
def test_which_of_keras_s_metrics_are_sums_over_examples(metric, sums):
    assert is_sum(metric) is sums


@pytest.mark.slow
def test_a_loss_object_as_a_metric_is_the_mean_of_whole_batches_in_parts():
    def build():
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        loss = keras.losses.MeanSquaredError(name="object")
        model.compile(keras.optimizers.SGD(0.1), "mae", metrics=[loss])
        return model

    name = next(n for n in build().fit(rows(), verbose=0).history if n != "loss")
    for accumulation in (1, 2):
        found = [one[name] for one in logs(build, accumulation)]
        assert found == pytest.approx(expected(build, name), rel=1e-5)


def test_the_trackers_of_output_losses_are_found_for_keras_feeds_them_itself():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(1)(inputs)])
    model.compile("sgd", ["mse", "mse"])
    assert _private_api.loss_trackers(model) == []
    one = keras.KerasTensor((None, 1))
    _private_api.build_compiled(model, inputs, [one, one], None)
    assert len(_private_api.loss_trackers(model)) == 2
