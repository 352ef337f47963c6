"""Metrics and the losses of single outputs where a batch is worked through in parts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfbig

SIZES = (4, 3)  # of the two batches


class Largest(keras.metrics.Metric):
    """A maximum, which is updated with whole batches."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.value = self.add_weight(name="value", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(ops.maximum(self.value, ops.max(ops.abs(y_true - y_pred))))

    def result(self):
        return self.value


def data() -> tuple:
    random = np.random.default_rng(0)
    n = sum(SIZES)
    features = random.normal(size=(n, 2)).astype("float32")
    labels = {name: random.normal(size=(n, 2)).astype("float32") for name in "ab"}
    weights = {name: random.uniform(0, 3, (n, 1)).astype("float32") for name in "ab"}
    return features, labels, weights


def build() -> keras.Model:
    """Both outputs are the features."""
    inputs = keras.Input((2,))
    model = keras.Model(
        inputs,
        {
            name: keras.layers.Dense(2, kernel_initializer="identity", name=name)(inputs)
            for name in "ab"
        },
    )
    model.compile(
        keras.optimizers.SGD(0.0),
        {
            "a": keras.losses.MeanSquaredError(reduction="sum"),
            "b": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        },
        metrics={"a": [Largest(name="largest")]},
        weighted_metrics={"a": ["mse"]},
    )
    return model


def train(devices: int, accumulation: int) -> list[dict[str, float]]:
    """What callbacks are told at the epoch's end, and the evaluation."""
    told = []

    logged = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: told.append({k: float(v) for k, v in logs.items()})
    )

    def input_fn():
        return tf.data.Dataset.from_tensor_slices(data()).batch(SIZES[0])

    result = tfbig.train_distributed(
        build,
        input_fn,
        eval_input_fn=input_fn,
        strategy="mirrored" if devices > 1 else "one_device",
        devices=devices,
        epochs=1,
        callbacks=[logged],
        config=tfbig.RunConfig(accumulation_steps=accumulation, jit_compile=False),
    )
    return [*told, {k: float(v) for k, v in result.metrics.items()}]


def train_mirrored(accumulation: int) -> list[dict[str, float]]:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3
    )
    return train(3, accumulation)


def check(logs: dict[str, float]) -> None:
    features, labels, weights = data()
    squares = {name: np.mean((labels[name] - features) ** 2, axis=1) for name in "ab"}
    weighed = {name: squares[name] * weights[name][:, 0] for name in "ab"}
    batches = [slice(0, SIZES[0]), slice(SIZES[0], None)]
    sums = [weighed["a"][b].sum() for b in batches]
    means = [weighed["b"][b].sum() / weights["b"][b].sum() for b in batches]

    assert logs["a_loss"] == pytest.approx(np.average(sums, weights=SIZES), rel=1e-5)
    assert logs["b_loss"] == pytest.approx(np.average(means, weights=SIZES), rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["a_loss"] + logs["b_loss"], rel=1e-5)
    assert logs["a_largest"] == pytest.approx(np.abs(labels["a"] - features).max(), rel=1e-5)
    mse = weighed["a"].sum() / weights["a"].sum()
    assert logs["a_mse"] == pytest.approx(mse, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_losses_of_outputs_are_those_of_whole_batches(accumulation):
    epoch, evaluation = train(1, accumulation)

    check(epoch)
    check(evaluation)


@pytest.mark.slow
def test_mirrored_metrics_of_whole_batches_take_batches_of_any_size(in_process):
    epoch, evaluation = in_process(train_mirrored, 2)

    check(epoch)
    check(evaluation)
