"""State and metrics of Keras models that are not sums over the examples of a batch.

These tests guard make_global_seed of tfbig._private_api.
"""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfbig
from tests.programs.batches import batch, forward, keras_program, x
from tfbig import _private_api
from tfbig.programs.metric_aggregation import NOT_ADDITIVE, PARTS, UNKNOWN_KIND, WHOLE_BATCHES


class Largest(keras.metrics.Metric):
    """A maximum."""

    def __init__(self, name="largest", **keywords):
        super().__init__(name=name, **keywords)
        self.value = self.add_weight(name="value", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(ops.maximum(self.value, ops.max(ops.abs(y_true - y_pred))))

    def result(self):
        return self.value


class Last(Largest):
    """The last batch's mean."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(ops.mean(ops.abs(y_true - y_pred)))


class Running(keras.metrics.Metric):
    """A mean that is kept as a mean."""

    def __init__(self, name="running", **keywords):
        super().__init__(name=name, **keywords)
        self.mean = self.add_weight(name="mean", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        rows = ops.cast(ops.shape(y_true)[0], "float32")
        total = self.mean * self.count + rows * ops.mean(ops.abs(y_true - y_pred))
        self.count.assign_add(rows)
        self.mean.assign(total / self.count)

    def result(self):
        return self.mean


class OwnTotal(Running):
    """A mean that is kept as a total and a count."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(ops.cast(ops.shape(y_true)[0], "float32"))
        self.mean.assign_add(ops.sum(ops.abs(y_true - y_pred)))

    def result(self):
        return self.mean / self.count


def batch_mean(y_true, y_pred):
    return ops.max(ops.abs(y_true - y_pred))


def compiled(*metrics, **arguments) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=list(metrics), **arguments)
    return model


@pytest.mark.parametrize(
    ("metric", "kinds"),
    [
        (lambda: Largest(), [NOT_ADDITIVE]),
        (lambda: Last(), [NOT_ADDITIVE]),
        (lambda: Running(), [NOT_ADDITIVE, NOT_ADDITIVE]),
        (lambda: OwnTotal(), [PARTS, PARTS]),
        (lambda: batch_mean, [WHOLE_BATCHES, WHOLE_BATCHES]),
        (lambda: "mae", [PARTS, PARTS]),
        (lambda: keras.metrics.RootMeanSquaredError(), [PARTS, PARTS]),
    ],
)
def test_what_a_metric_adds_up_over_is_found_by_trying(metric, kinds):
    program = keras_program(compiled(metric()), x(4), x(1))
    assert list(program.metric_kinds) == kinds


class OwnMetrics(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred, sample_weight)


# Not all random numbers have a hit, so that one trial does not show what the hits add up over.
@pytest.mark.parametrize("classes", [3, 4, 6, 8])
def test_keras_metrics_stay_sums_where_compute_metrics_is_the_models_own(classes):
    inputs = keras.Input((4,))
    model = OwnMetrics(inputs, layers.Dense(classes)(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=[keras.metrics.CategoricalAccuracy()])

    program = keras_program(model, x(4), x(classes))

    assert list(program.metric_kinds) == [PARTS, PARTS]


ONE_BY_ONE = {
    "largest": lambda y, p: np.max(np.abs(y - p)),
    "running": lambda y, p: np.mean(np.abs(y - p)),
    "own_total": lambda y, p: np.mean(np.abs(y - p)),
}


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("log_every", [1, 3])
def test_metrics_that_are_no_sums_are_those_of_one_update_after_the_other(accumulation, log_every):
    random = np.random.default_rng(0)
    features = random.normal(size=(22, 4)).astype("float32")
    labels = random.normal(size=(22, 1)).astype("float32")
    seen = []

    logged = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(dict(logs)))

    def build():
        keras.utils.set_random_seed(1)
        metrics = [Largest(), Running(), OwnTotal(name="own_total"), batch_mean, Last(name="last")]
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse", metrics=metrics)
        return model

    def input_fn():
        return tf.data.Dataset.from_tensor_slices((features, labels)).batch(5)  # the last has 2

    result = tfbig.train_distributed(
        build,
        input_fn,
        eval_input_fn=input_fn,
        strategy="one_device",
        epochs=2,
        callbacks=[logged],
        config=tfbig.RunConfig(
            tf_random_seed=1,
            jit_compile=False,
            accumulation_steps=accumulation,
            log_step_count_steps=log_every,
        ),
    )
    outputs = build()(features).numpy()
    expected = {name: one(labels, outputs) for name, one in ONE_BY_ONE.items()}
    parts = [slice(i, i + 5) for i in range(0, 22, 5)]
    of_batches = [np.max(np.abs(labels[p] - outputs[p])) for p in parts]
    expected["batch_mean"] = np.mean(of_batches)
    expected["last"] = np.mean(np.abs(labels[parts[-1]] - outputs[parts[-1]]))
    for logs in [*seen, result.metrics]:
        found = {name: logs[name] for name in expected}
        assert found == pytest.approx(expected, rel=1e-5), (found, expected)
    assert len(seen) == 2


def test_a_metric_that_call_updates_is_refused_by_name_in_parts():
    class Watching(layers.Layer):
        def __init__(self, **keywords):
            super().__init__(**keywords)
            self.watched = Largest(name="watched")

        def call(self, inputs):
            self.watched.update_state(inputs, ops.zeros_like(inputs))
            return inputs

    def build():
        model = keras.Sequential([keras.Input((4,)), Watching(), layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    program = keras_program(build(), x(4), x(1))
    assert list(program.metric_kinds) == [UNKNOWN_KIND]
    with pytest.raises(tfbig.errors.UserError, match=r"metric watched \(Largest\) is no sum"):
        tfbig.train_distributed(
            build,
            lambda: tf.data.Dataset.from_tensor_slices((x(4), x(1))).batch(4),
            strategy="one_device",
            max_steps=1,
            config=tfbig.RunConfig(accumulation_steps=2, jit_compile=False),
        )


# State that the model does not list.


def stateful() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input(batch_shape=(4, 3, 2)), layers.LSTM(3, stateful=True), layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def sequences() -> tf.data.Dataset:
    random = np.random.RandomState(0)
    features, labels = random.randn(16, 3, 2), random.randn(16, 1)
    data = tf.data.Dataset.from_tensor_slices((np.float32(features), np.float32(labels)))
    return data.batch(4, drop_remainder=True)


def trained(build=stateful, read=sequences, model_dir=None, **keywords):
    config = tfbig.RunConfig(tf_random_seed=1, jit_compile=False, **keywords.pop("config", {}))
    return tfbig.train_distributed(
        build, read, strategy="one_device", model_dir=model_dir, config=config, **keywords
    ).model


@pytest.mark.slow
def test_the_state_of_a_stateful_rnn_is_carried_as_fit_carries_it_and_resumed(tmp_path):
    expected = stateful()
    expected.fit(sequences(), validation_data=sequences(), epochs=2, shuffle=False, verbose=0)
    model = trained(epochs=2, eval_input_fn=sequences)
    for new, old in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    np.testing.assert_allclose(model.layers[0].states[0], expected.layers[0].states[0], atol=1e-6)
    whole = trained(max_steps=4)
    trained(max_steps=2, model_dir=str(tmp_path))
    resumed = trained(max_steps=4, model_dir=str(tmp_path))
    for new, old in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_carried_state_is_refused_in_parts_naming_the_layer():
    with pytest.raises(tfbig.errors.UserError, match=r"lstm\w*/states/0.*in 2 parts"):
        trained(max_steps=1, config={"accumulation_steps": 2})


class Counter(layers.Layer):
    """Counts its calls in a plain tf.Variable, and scales by the count."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs * self.calls


def counting() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1), Counter(name="counter")])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def rows() -> tf.data.Dataset:
    random = np.random.default_rng(0)
    arrays = random.normal(size=(12, 4)), random.normal(size=(12, 1))
    return tf.data.Dataset.from_tensor_slices(tuple(map(np.float32, arrays))).batch(3)


def test_a_plain_variable_that_a_call_assigns_is_kept_in_checkpoints(tmp_path):
    trained(counting, rows, max_steps=2, model_dir=str(tmp_path))
    resumed = trained(counting, rows, max_steps=4, model_dir=str(tmp_path))
    whole = trained(counting, rows, max_steps=4)
    assert float(resumed.layers[1].calls) == float(whole.layers[1].calls) == 4.0
    for new, old in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    with pytest.raises(tfbig.errors.UserError, match="counter/calls"):
        trained(counting, rows, max_steps=1, config={"accumulation_steps": 3})


def test_random_numbers_without_a_seed_differ_from_step_to_step():
    class Noise(layers.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal(ops.shape(inputs))

    model = keras.Sequential([keras.Input((4,)), Noise()])
    model.compile("sgd", "mse")
    program = keras_program(model, x(4), x(4))
    assert any("seed_generator_state" in v.path for v in program.state)
    first = forward(program, batch(x(4), x(4)))
    for variable, value in zip(program.state, first.state, strict=True):
        variable.assign(value)
    second = forward(program, batch(x(4), x(4)))
    assert float(first.terms[0].total) != float(second.terms[0].total)


# Losses.


def test_add_loss_of_a_value_for_each_example_is_summed_in_parts_too():
    class PerExample(layers.Layer):
        def call(self, inputs):
            self.add_loss(ops.square(inputs))
            return inputs

    def build():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,))
        model = keras.Model(inputs, PerExample()(layers.Dense(2)(inputs)))
        model.compile(keras.optimizers.SGD(0.01))
        return model

    def run(parts):
        return trained(
            build,
            lambda: rows().map(lambda features, labels: features),
            max_steps=4,
            config={"accumulation_steps": parts},
        )

    expected = build()
    expected.fit(rows().map(lambda features, labels: features), epochs=1, shuffle=False, verbose=0)
    for parts in (1, 2):
        for new, old in zip(run(parts).get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-6, err_msg=f"{parts} parts")


def batch_sum(labels, outputs):
    return ops.sum(ops.square(labels - outputs))


def contrast(labels, outputs):
    return ops.sum(ops.square(outputs - ops.mean(outputs, axis=0)), axis=-1)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (batch_sum, "the loss batch_sum gives one number for a batch"),
        (contrast, "the loss contrast compares the examples of a batch"),
    ],
)
def test_a_loss_of_whole_batches_is_warned_of_once_in_parts(loss, said, caplog):
    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile("sgd", loss)
        return model

    def warnings(**config):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "tfbig"):
            trained(build, rows, max_steps=3, config=config)
        return [r.getMessage() for r in caplog.records if said in r.getMessage()]

    assert warnings() == []
    assert len(warnings(accumulation_steps=2)) == 1
    if loss is batch_sum:  # the user has said that it is a sum
        assert warnings(accumulation_steps=2, gradient_aggregation="sum") == []


def test_private_lists_of_metrics_and_weights():
    class Own(keras.Model):
        @property
        def metrics(self):
            return []

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(1)(layers.BatchNormalization()(inputs)))
    model.compile("sgd", "mse", metrics=["mae"])
    _private_api.build_compiled(model, inputs, keras.KerasTensor((None, 1)), None)
    assert {m.name for m in _private_api.all_metrics(model)} >= {"loss", "compile_metrics"}
    normalization = model.layers[1]
    assert [id(v) for v in _private_api.direct_variables(normalization)] == [
        id(v) for v in (*normalization.trainable_variables, *normalization.non_trainable_variables)
    ]
    assert _private_api.direct_variables(model) == []
