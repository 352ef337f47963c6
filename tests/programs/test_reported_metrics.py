"""Reports of custom compute_metrics, get_metrics_result and reset_metrics methods."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfbig
from tests.programs.batches import keras_program, x
from tfbig import _private_api

random = np.random.default_rng(0)
FEATURES = random.normal(size=(11, 4)).astype("float32")
LABELS = random.normal(size=(11, 2)).astype("float32")


def rows() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(4)


class Root(keras.Model):
    """Its documented use: a key is added to what Keras returns."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        logs["root"] = ops.sqrt(logs["mse"])
        logs["deep"] = {"exp": ops.exp(logs["loss"])}
        logs["rate"] = self.optimizer.learning_rate
        return logs


class Few(Root):
    """Updates a metric of its own, and returns that alone."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.largest = keras.metrics.Mean(name="largest")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        super().compute_metrics(x, y, y_pred, sample_weight)
        return {"own": 2 * self.largest(ops.max(x, axis=1))}


class Changed(keras.Model):
    def get_metrics_result(self):
        logs = super().get_metrics_result()
        return {"loss": 10 * logs["loss"], "exp": ops.exp(logs["loss"]), "mse": 100 * logs["mse"]}


class Never(keras.Model):
    """Its metrics go on from epoch to epoch."""

    def reset_metrics(self):
        self.metrics[0].reset_state()  # of the loss


def build(kind) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    model = kind(inputs, layers.Dense(2)(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mse"])
    return model


def logs_of(kind, accumulation: int) -> tuple[list[dict], tfbig.TrainResult]:
    told = []

    logged = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: told.append({k: float(v) for k, v in logs.items()})
    )
    result = tfbig.train_distributed(
        lambda: build(kind),
        rows,
        eval_input_fn=None if kind is Never else rows,
        strategy="one_device",
        epochs=2,
        callbacks=[logged],
        config=tfbig.RunConfig(
            accumulation_steps=accumulation, log_step_count_steps=2, jit_compile=False
        ),
    )
    return told, result


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", [Root, Few, Changed, Never])
def test_logs_and_evaluations_are_those_of_fit(kind, accumulation):
    told, result = logs_of(kind, accumulation)
    validation = {} if kind is Never else {"validation_data": rows()}
    model = build(kind)
    history = model.fit(rows(), epochs=2, shuffle=False, verbose=0, **validation).history
    for epoch, logs in enumerate(told):
        expected = {name: values[epoch] for name, values in history.items()}
        assert {n: logs[n] for n in expected} == pytest.approx(expected, rel=1e-5), epoch
    if kind is not Never:
        expected = model.evaluate(rows(), verbose=0, return_dict=True)
        evaluated = tfbig.evaluate(result.model, rows)
        for found in (result.metrics, evaluated):
            assert {n: float(found[n]) for n in expected} == pytest.approx(expected, rel=1e-5)


class OfBatch(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "largest": ops.max(y), "twice": 2 * logs["mse"]}


def test_a_value_of_the_last_batch_is_left_out_by_name(caplog):
    with caplog.at_level(logging.WARNING, "tfbig"):
        program = keras_program(build(OfBatch), x(4), x(2))
    assert sorted(program.metric_results(1.0)) == ["mse", "twice"]
    said = [r.getMessage() for r in caplog.records if "OfBatch.compute_metrics" in r.getMessage()]
    assert len(said) == 1
    assert "'largest' from the last batch itself" in said[0]


def test_a_compute_metrics_that_cannot_be_traced_reports_the_metrics_with_a_warning(caplog):
    class Fixed(keras.Model):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            logs = super().compute_metrics(x, y, y_pred, sample_weight)
            if y.shape[0] is None and ops.is_tensor(logs["mse"]) and type(self).strict:
                raise TypeError("no size")
            return logs

    Fixed.strict = False
    model = build(Fixed)
    keras_program(model, x(4), x(2))
    Fixed.strict = True
    with caplog.at_level(logging.WARNING, "tfbig"):
        program = keras_program(model, x(4), x(2))
    assert list(program.metric_results(1.0)) == ["mse"]
    assert "could not be traced with batches of any size (no size)" in caplog.text


def test_the_tracker_of_the_loss_is_the_one_that_a_model_s_own_methods_read():
    tracker = _private_api.loss_tracker(build(Changed))
    assert tracker.name == "loss"
    assert isinstance(tracker, keras.metrics.Mean)
