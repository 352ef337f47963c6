"""With a scaled loss, steps that overflow are skipped and counted; NaN in the data is an error."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig


def build() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(1)]
    )
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=8.0)
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def arrays() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    features = random.normal(size=(24, 4)).astype("float32")
    labels = random.normal(size=(24, 1)).astype("float32")
    return features, labels


def trained(features, labels, **config):
    return tfbig.train_distributed(
        build,
        lambda: tf.data.Dataset.from_tensor_slices((features, labels)).batch(4),
        strategy="one_device",
        epochs=1,
        config=tfbig.RunConfig(tf_random_seed=1, log_step_count_steps=2, **config),
    )


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_whose_loss_overflows_is_skipped_and_counted(accumulation):
    features, labels = arrays()
    labels[8:12] = 3e38  # so that loss and gradients overflow in the third of six batches
    config = {"jit_compile": False, "accumulation_steps": accumulation}
    result = trained(features, labels, **config)
    kept = np.r_[0:8, 12:24]
    expected = trained(features[kept], labels[kept], **config)
    assert result.global_step == 6
    assert int(result.model.optimizer.iterations) == 5
    for new, old in zip(result.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)  # moving statistics too
    assert [logs.get("steps_skipped") for logs in result.history] == [None, 1.0, 1.0]
    assert all(np.isfinite([logs["loss"], logs["mae"]]).all() for logs in result.history)


def test_nan_in_a_batch_is_an_error_with_a_scaled_loss_too():
    features, labels = arrays()
    features[9, 2] = np.nan
    with pytest.raises(tfbig.errors.TfbigError, match="features has NaN in example 1"):
        trained(features, labels, jit_compile=False)
