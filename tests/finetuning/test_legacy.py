"""Files of tf.keras (Keras 2), made by tf_keras itself; skipped where that is not installed."""

import importlib.util
import logging

import numpy as np
import pytest

from tests.finetuning.pretrained import X, Y, build
from tfbig.errors import UserError
from tfbig.finetuning.loading import load_model

tf_keras = pytest.importorskip(
    "tf_keras", reason='the tests of Keras 2 files need pip install "tfbig[legacy]"'
)


@pytest.fixture(scope="module")
def old():
    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((8,)),
            tf_keras.layers.Dense(4, activation="relu", name="body"),
            tf_keras.layers.BatchNormalization(name="norm"),
            tf_keras.layers.Dropout(0.1),
            tf_keras.layers.Dense(2, name="head"),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, Y, epochs=3, verbose=0, batch_size=16)
    return model


def operations():
    """A model with a TensorFlow operation as a layer, which Keras 3 cannot read."""
    inputs = tf_keras.layers.Input((8,))
    outputs = tf_keras.layers.Dense(2)(tf_keras.layers.Dense(4)(inputs) * 2.0)
    return tf_keras.Model(inputs, outputs)


@pytest.mark.slow
def test_h5_comes_back_compiled_with_its_optimizers_state(old, tmp_path):
    old.save(tmp_path / "old.h5")
    model = load_model(tmp_path / "old.h5")
    np.testing.assert_allclose(model(X), old(X), atol=1e-6)
    assert int(model.optimizer.iterations.numpy()) == 6
    theirs = {v.name.split("/", 1)[-1]: v.numpy() for v in old.optimizer.variables}
    ours = model.optimizer.variables[2:]
    assert len(ours) == len([n for n in theirs if n[:2] in ("m/", "v/")]) == 12
    np.testing.assert_array_equal(ours[0], theirs["m/body/kernel:0"])
    np.testing.assert_array_equal(ours[-1], theirs["v/head/bias:0"])
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(old.evaluate(X, Y, verbose=0), rel=1e-5)


@pytest.mark.parametrize("name", ["old.weights.h5", "weights.h5", "checkpoint"])
def test_weights_go_into_a_model_of_keras_3(old, tmp_path, name):
    old.save_weights(str(tmp_path / name))
    model = load_model(tmp_path / name, base_model_fn=build)
    np.testing.assert_allclose(model(X), old(X), atol=1e-6)


@pytest.mark.parametrize("name", ["old.keras", "old.h5", "old_saved_model"])
def test_what_keras_3_cannot_read_is_a_layer_that_can_be_trained(tmp_path, caplog, name):
    model = operations()
    model.save(tmp_path / name)
    with caplog.at_level(logging.INFO, "tfbig"):
        loaded = load_model(tmp_path / name)
    assert ("read by tf_keras" in caplog.text) == (name != "old_saved_model")
    assert "4 trainable weights" in caplog.text or "trained: 4 weights" in caplog.text
    np.testing.assert_allclose(loaded(X), model(X), atol=1e-6)
    loaded.compile("sgd", "mse")
    before = loaded.evaluate(X, Y, verbose=0)
    loaded.fit(X, Y, epochs=5, verbose=0)
    assert loaded.evaluate(X, Y, verbose=0) < before
    loaded.save(tmp_path / "again.keras")
    np.testing.assert_array_equal(load_model(tmp_path / "again.keras")(X), loaded(X))


def test_without_tf_keras_the_error_says_what_to_install(tmp_path, monkeypatch):
    operations().save(tmp_path / "old.h5")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"old\.h5.*pip install 'tfbig\[legacy\]'"):
        load_model(tmp_path / "old.h5")
