"""Names, layers and overridden methods of Keras models."""

import keras
import pytest

from tfbig import _private_api


def test_automatic_names():
    keras.layers.Dense(1)
    before = int(keras.layers.Dense(1).name.removeprefix("dense_"))
    with _private_api.automatic_names():
        assert [keras.layers.Dense(1).name for _ in range(3)] == ["dense", "dense_1", "dense_2"]
    assert keras.layers.Dense(1).name == f"dense_{before + 1}"
    with pytest.raises(RuntimeError), _private_api.automatic_names():
        raise RuntimeError
    assert keras.layers.Dense(1).name == f"dense_{before + 2}"


def test_overrides_sees_methods_of_a_models_own_class_only():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    class Heir(Own):
        pass

    inputs = keras.Input((2,))
    for model in (keras.Sequential(), keras.Model(inputs, inputs), keras.Model()):
        for method in ("train_step", "test_step", "compute_loss", "compute_metrics"):
            assert not _private_api.overrides(model, method), method
    assert _private_api.overrides(Heir(), "train_step")
    assert not _private_api.overrides(Heir(), "test_step")


def test_flatten_layers_finds_the_layers_of_nested_models_and_wrappers():
    inputs = keras.Input((3, 2))
    inner = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(2))(inputs))
    model = keras.Sequential([keras.Input((3, 2)), inner])
    kinds = [type(layer).__name__ for layer in _private_api.flatten_layers(model)]
    assert kinds.count("Dense") == 1
    assert kinds.count("TimeDistributed") == 1


def test_set_trainable_flag():
    inner = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), keras.Sequential([keras.Input((3,)), inner])])
    _private_api.set_trainable_flag(model.layers[0], False)
    assert not model.layers[0].trainable
    assert inner.trainable
    assert inner.kernel.trainable
    assert model.layers[0].trainable_weights == []
    assert len(model.trainable_weights) == 2
    _private_api.set_trainable_flag(inner, False)
    assert inner.trainable_weights == []
    assert inner.kernel.trainable


def test_output_spec_gives_shapes_and_makes_the_variables():
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
    output = _private_api.output_spec(model, keras.KerasTensor([None, 4]))
    assert output.shape == (None, 2)
    assert [v.shape for v in model.variables] == [(4, 3), (3,), (3, 2), (2,)]
