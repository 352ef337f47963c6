"""The Keras metric BitsPerByte."""

import keras
import numpy as np
import pytest

from tfbig.evaluation.metrics import BitsPerByte, bits_per_byte

LABELS = np.array([[0, 1], [2, 2]])
CHANCES = np.array([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [[0.0625, 0.0625, 0.875]] * 2])
LOGITS = (np.log(CHANCES) + 3.0).astype(np.float32)  # logits are known up to a constant
BITS = np.array([[1.0, 2.0], [-np.log2(0.875)] * 2])


def test_a_byte_costs_the_logarithm_of_its_chance_to_base_2():
    np.testing.assert_allclose(bits_per_byte(LABELS, LOGITS), BITS, rtol=1e-5)


def test_a_uniform_prediction_needs_eight_bits():
    metric = BitsPerByte()
    metric.update_state(np.arange(256), np.zeros([256, 256], np.float32))
    assert float(metric.result()) == pytest.approx(8)


def test_the_metric_is_the_mean_over_bytes_of_all_batches():
    metric = BitsPerByte()
    metric.update_state(LABELS[:1], LOGITS[:1])
    metric.update_state(np.concatenate([LABELS] * 2), np.concatenate([LOGITS] * 2))
    assert float(metric.result()) == pytest.approx((3 * BITS[0].sum() + 2 * BITS[1].sum()) / 10)
    metric.reset_state()
    metric.update_state(LABELS[1:], LOGITS[1:])
    assert float(metric.result()) == pytest.approx(BITS[1].mean())


@pytest.mark.parametrize("weight", [np.array([3.0, 0.0]), np.array([[1.0, 0.0], [1.0, 2.0]])])
def test_weights_are_per_sequence_or_per_byte(weight):
    metric = BitsPerByte()
    metric.update_state(LABELS, LOGITS, sample_weight=weight)
    each = weight if weight.ndim == 2 else np.repeat(weight[:, None], 2, axis=1)
    assert float(metric.result()) == pytest.approx((BITS * each).sum() / each.sum())


def test_it_can_be_saved_and_loaded():
    metric = BitsPerByte()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert isinstance(again, BitsPerByte)
    assert (
        again.get_config() == metric.get_config() == {"name": "bits_per_byte", "dtype": "float32"}
    )


def test_callbacks_know_that_less_is_better():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[BitsPerByte()])
    model.train_on_batch(np.zeros([2, 2]), np.zeros([2]))
    stopping = keras.callbacks.EarlyStopping("bits_per_byte", patience=9)  # mode="auto"
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, bits in enumerate((3.0, 2.0, 2.5)):
        stopping.on_epoch_end(epoch, {"bits_per_byte": bits})
    assert (stopping.best, stopping.best_epoch, stopping.wait) == (2.0, 1, 1)
