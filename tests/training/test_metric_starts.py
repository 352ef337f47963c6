"""Metrics whose state does not start at 0, or is kept where no reset reaches it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfbig
from tests.programs.batches import batch, keras_program, update_metrics, x
from tfbig.errors import UserError
from tfbig.programs.tracing import assigned_handles

random = np.random.default_rng(0)
FEATURES = random.normal(size=(14, 4)).astype("float32")
LABELS = random.normal(size=(14, 2)).astype("float32")


class Smoothed(keras.metrics.Metric):
    """A mean of absolute errors that starts at 1 of 1."""

    def __init__(self, name="metric"):
        super().__init__(name=name)
        self.total = self.add_weight(name="total", initializer="ones")
        self.count = self.add_weight(name="count", initializer="ones")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.sum(ops.abs(y_true - y_pred)))
        self.count.assign_add(ops.cast(ops.size(y_true), "float32"))

    def result(self):
        return self.total / self.count

    def reset_state(self):
        self.total.assign(1.0)
        self.count.assign(1.0)


class Kept(Smoothed):
    """It goes on from epoch to epoch."""

    def reset_state(self):
        pass


class Constant(keras.metrics.Metric):
    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return ops.convert_to_tensor(0.25)


def build(metric) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=[metric()])
    return model


def rows() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(4)


# 3 is within the first epoch and the second, of 4 steps each; a span goes over the epoch's end.
@pytest.mark.parametrize(("log_every", "accumulation"), [(1, 1), (3, 1), (3, 2), (100, 1)])
@pytest.mark.parametrize("metric", [Smoothed, Kept, lambda: Constant(name="metric")])
def test_epochs_report_what_fit_reports(metric, log_every, accumulation):
    told = []

    logged = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: told.append(float(logs["metric"]))
    )
    tfbig.train_distributed(
        lambda: build(metric),
        rows,
        strategy="one_device",
        epochs=3,
        callbacks=[logged],
        config=tfbig.RunConfig(
            log_step_count_steps=log_every, accumulation_steps=accumulation, jit_compile=False
        ),
    )
    history = build(metric).fit(rows(), epochs=3, shuffle=False, verbose=0).history
    assert told == pytest.approx(history["metric"], rel=1e-5)


class Raw(Smoothed):
    def __init__(self, name="metric"):
        super().__init__(name=name)
        self.seen = [tf.Variable(0.0)]

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen[0].assign_add(ops.mean(y_true))


class RawAlone(keras.metrics.Metric):
    """Has no variable of Keras's at all."""

    def __init__(self, name="metric"):
        super().__init__(name=name)
        self.seen = [tf.Variable(0.0)]

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen[0].assign(tf.maximum(self.seen[0], tf.reduce_max(y_pred)))

    def result(self):
        return self.seen[0] + 0.0

    def reset_state(self):
        self.seen[0].assign(0.0)


@pytest.mark.parametrize("kind", [Raw, RawAlone])
def test_a_metric_that_assigns_a_tensorflow_variable_is_refused_and_the_variable_stays(kind):
    metric = kind()
    said = r"metric metric \(Raw\w*\) assigns the tf.Variable self.seen.0 .* with self.add_variable"
    with pytest.raises(UserError, match=said):
        keras_program(build(lambda: metric), x(4), x(2))
    assert metric.seen[0].numpy() == 0.0


class Looking(Raw):
    """Reads its tf.Variable, and does not assign it."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.sum(y_true) + self.seen[0])


def test_a_metric_may_read_a_tensorflow_variable():
    keras_program(build(Looking), x(4), x(2))


def test_a_model_s_own_compute_metrics_may_not_assign_a_tensorflow_variable():
    class Own(keras.Model):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.calls = tf.Variable(0.0, trainable=False)

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.calls.assign_add(1.0)
            return super().compute_metrics(x, y, y_pred, sample_weight)

    inputs = keras.Input((4,))
    model = Own(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "mse", metrics=[keras.metrics.MeanAbsoluteError()])
    with pytest.raises(UserError, match=r"a metric assigns a tf.Variable \(.*AssignAdd.*\)"):
        keras_program(model, x(4), x(2))
    assert model.calls.numpy() == 0.0


def test_assigned_handles_are_those_of_a_trace():
    first, second = tf.Variable(1.0), tf.Variable(2.0)
    trace = tf.function(lambda: first.assign_add(second)).get_concrete_function()
    assert list(assigned_handles(trace.graph, 0)) == [id(first.handle)]


def test_the_values_of_a_dict_are_reported_by_their_names():
    class Pair(Smoothed):
        def result(self):
            return {"total": self.total + 0.0, "inner": {"twice": 2 * self.total}}

    program = keras_program(build(Pair), x(4), x(2))
    program.reset_metrics()
    results = update_metrics(program, batch(x(4), x(2)))
    total = 1 + np.abs(x(2) - program.model(x(4)).numpy()).sum()
    assert results == pytest.approx({"total": total, "twice": 2 * total}, rel=1e-5)
