"""tfbig.predict: one prediction per example, in order, wherever it is computed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.training.small_runs import arrays
from tfbig.errors import UserError


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    model.layers[1].moving_mean.assign(np.arange(8) / 10)
    return model


def source(examples=85):
    return tfbig.data.ArraySource(arrays(examples)).batch(16)


@pytest.mark.parametrize("kind", ["source", "dataset", "features alone"])
def test_predictions_are_the_models_in_the_order_of_the_examples(kind):
    model, (x, y) = build(), arrays(85)
    data = {
        "source": lambda: source(),
        "dataset": lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        "features alone": lambda: tfbig.data.ArraySource(x).batch(16),
    }[kind]
    found = list(tfbig.predict(model, data))
    assert len(found) == 85
    assert found[0].shape == (3,)
    np.testing.assert_allclose(np.array(found), model.predict(x, verbose=0), atol=1e-6)


def test_a_source_is_not_augmented_and_the_mode_is_infer():
    modes = []

    def input_fn(mode):
        modes.append(mode)
        layers = [{"name": "RandomFlip"}, {"name": "Rescaling", "scale": 2.0}]
        return tfbig.data.ArraySource(images).augment(layers).batch(8)

    images = np.random.RandomState(0).rand(20, 4, 4, 1).astype("float32")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Identity()])
    found = list(tfbig.predict(model, input_fn))
    assert modes == ["infer"]
    np.testing.assert_array_equal(np.array(found), 2 * images)


def test_several_outputs_come_as_the_model_returns_them():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, {"twice": inputs * 2, "sum": keras.ops.sum(inputs, axis=1)})
    first = next(tfbig.predict(model, source))
    x = arrays(85)[0][0]
    np.testing.assert_allclose(first["twice"], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(first["sum"], x.sum(), rtol=1e-5)


def test_a_saved_model_is_loaded(tmp_path):
    model = build()
    model.save(tmp_path / "model.keras")
    found = list(tfbig.predict(tmp_path / "model.keras", source))
    np.testing.assert_allclose(np.array(found), model.predict(arrays(85)[0], verbose=0), atol=1e-6)


def on_four_replicas(path: str) -> list:
    found = tfbig.predict(path, source, strategy="mirrored", devices=4)
    return [row.tolist() for row in found]


def test_four_replicas_give_the_same_in_the_same_order(tmp_path):
    model = build()
    model.save(tmp_path / "model.keras")
    expected = model.predict(arrays(85)[0], verbose=0)  # the last batch has 5: 2, 2, 1 and none
    found = harness.call(on_four_replicas, tmp_path, str(tmp_path / "model.keras"), timeout=120)
    np.testing.assert_allclose(np.array(found), expected, atol=1e-6)


def test_what_cannot_be_predicted_is_refused_before_the_first_prediction_is_asked_for():
    with pytest.raises(UserError, match=r"^predict: model_or_path='no.keras': there is no"):
        tfbig.predict("no.keras", source)
    with pytest.raises(UserError, match="infinite Dataset, so the predictions would not end"):
        tfbig.predict(build(), lambda: tf.data.Dataset.from_tensors([[1.0] * 8]).repeat())
    with pytest.raises(UserError, match="input_fn=a int: expected a function"):
        tfbig.predict(build(), 5)
