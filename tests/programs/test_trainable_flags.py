"""A rebuilt model trains exactly what its original trains."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.programs.batches import x
from tfbig import _private_api
from tfbig.programs.keras.rebuilding import rebuilt


class Backbone(keras.Model):
    """A functional subclass, as KerasHub's are, with normalisation and a nested model."""

    def __init__(self, width=4, **keywords):
        inputs = keras.Input((4,))
        inner = keras.Sequential([keras.Input((4,)), layers.Dense(width), layers.Dense(width)])
        hidden = layers.BatchNormalization()(inner(inputs))
        super().__init__(inputs=inputs, outputs=layers.Dense(width)(hidden), **keywords)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


class Block(layers.Layer):
    """A layer of layers, with a weight of its own."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.first, self.norm = layers.Dense(4), layers.BatchNormalization()

    def build(self, shape):
        self.first.build(shape)
        self.norm.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")

    def call(self, inputs, training=None):
        return self.norm(self.first(inputs), training=training) * self.scale


def model_of(layer) -> keras.Model:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(layer(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def backbone(freeze) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = model_of(Backbone())
    freeze(model.layers[1])
    return model


def block(freeze) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = model_of(Block())
    freeze(model.layers[1])
    return model


def all_but_one(inner):
    """The layer is frozen, the first layer in it is not."""
    inner.trainable = False
    (inner.first if isinstance(inner, Block) else inner.layers[1]).trainable = True


def kernel_alone(inner):
    (inner.first if isinstance(inner, Block) else inner.layers[-1]).kernel.trainable = False


def normalisation(inner):
    (inner.norm if isinstance(inner, Block) else inner.layers[2]).trainable = False


def in_the_nested_model(inner):
    inner.layers[1].layers[0].trainable = False


def adapters(inner):
    inner.trainable = False
    inner.layers[-1].trainable = True
    inner.layers[-1].enable_lora(2)


CASES = {
    "a whole backbone": (backbone, lambda inner: setattr(inner, "trainable", False)),
    "a backbone but for one layer": (backbone, all_but_one),
    "one weight": (backbone, kernel_alone),
    "a normalisation": (backbone, normalisation),
    "a layer in a model in a backbone": (backbone, in_the_nested_model),
    "a backbone with adapters": (backbone, adapters),
    "a layer of layers": (block, lambda inner: setattr(inner, "trainable", False)),
    "a layer but for one inside": (block, all_but_one),
    "one weight inside": (block, kernel_alone),
    "a normalisation inside": (block, normalisation),
}


@pytest.mark.parametrize("frozen", CASES)
def test_a_rebuilt_model_trains_the_same_variables_to_the_same_numbers(frozen):
    make, freeze = CASES[frozen]
    model = make(freeze)
    copy = rebuilt(model)

    def flags(each):
        return [layer.trainable for layer in _private_api.flatten_layers(each)]

    def trained(each):
        names = {id(weight) for weight in each.trainable_weights}
        return [n for n, weight in enumerate(each.weights) if id(weight) in names]

    assert flags(copy) == flags(model)
    assert trained(copy) == trained(model)
    assert [w.trainable for w in copy.weights] == [w.trainable for w in model.weights]
    before = [weight.numpy() for weight in model.weights]
    for each in (model, copy):
        each.fit(x(4), x(2, seed=2), batch_size=3, epochs=2, shuffle=False, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert any(moved)
    assert not all(moved)
    for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
