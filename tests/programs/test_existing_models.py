"""Training does not change a model that the caller passes or refers to."""

import functools
import logging

import keras
import numpy as np
import pytest
from keras import layers

import tfbig
from tfbig.errors import UserError
from tfbig.programs.keras.builder import referenced_layers, uses_any_layer
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt

X, Y = np.random.RandomState(0).rand(8, 4).astype("f4"), np.arange(8) % 3
CONFIG = tfbig.RunConfig(tf_random_seed=1, jit_compile=False)


def input_fn():
    return tfbig.data.ArraySource((X, Y)).batch(4)


def classifier(*inner) -> keras.Model:
    inner = inner or [layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((4,)), *inner, layers.Dense(3, name="out")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    return model


class Opaque(layers.Layer):
    """Cannot be rebuilt from its config."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


class Handing(Opaque):
    """Its config has the inner layer itself."""

    def get_config(self):
        return {"inner": self.inner}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def state(model) -> dict:
    """All that a caller can see of a model."""
    inner = [model, *model.layers]
    return {
        "weights": [v.numpy().tolist() for v in model.variables],
        "flags": [layer.trainable for layer in inner] + [w.trainable for w in model.weights],
        "compiled": (model.compiled, id(model.optimizer), id(model.loss)),
        "optimizer": [v.numpy().tolist() for v in model.optimizer.variables],
        "metrics": [id(m) for m in model.metrics],
        "adapters": [getattr(layer, "lora_enabled", None) for layer in inner],
        "policies": [layer.dtype_policy.name for layer in inner],
        "policy": keras.config.dtype_policy().name,
    }


RECIPES = {
    "nothing": {},
    "a head": dict(recipe=tfbig.Recipe(head=3, freeze="backbone", unfreeze={1: "*"})),
    "adapters": dict(recipe=tfbig.Recipe(lora_rank=2)),
    "a function": dict(model_fn=lambda loaded: loaded),
}


@pytest.mark.parametrize("what", RECIPES)
def test_fine_tune_leaves_the_callers_model_as_it_is(what):
    model = classifier()
    model.layers[0].trainable = False
    before = state(model)
    tuned = tfbig.fine_tune(model, input_fn, max_steps=3, config=CONFIG, **RECIPES[what]).model
    assert state(model) == before
    assert not uses_any_layer(tuned, referenced_layers(lambda: model))


@pytest.mark.slow
def test_train_distributed_leaves_the_callers_model_as_it_is_also_in_a_function():
    model = classifier()
    before = state(model)
    backbone = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    kernel = backbone.layers[0].kernel.numpy()
    held = {"model": model}
    given = [model, lambda: model, lambda: held["model"], functools.partial(lambda m: m, model)]
    trained = []
    for model_fn in (*given, lambda: classifier(backbone)):
        result = tfbig.train_distributed(model_fn, input_fn, max_steps=2, config=CONFIG)
        assert result.global_step == 2
        assert result.model is not model
        trained.append(result.model.get_weights())
        assert state(model) == before
    np.testing.assert_array_equal(backbone.layers[0].kernel.numpy(), kernel)
    for weights in trained[1:4]:
        for ours, first in zip(weights, trained[0], strict=True):
            np.testing.assert_array_equal(ours, first)


def test_fine_tune_refuses_a_callers_model_that_cannot_be_made_again():
    model = classifier(Opaque(layers.Dense(4)))
    before = state(model)
    with pytest.raises(UserError, match=r"^fine_tune: Sequential cannot be rebuilt .*must not"):
        tfbig.fine_tune(model, input_fn, max_steps=1, config=CONFIG)
    assert state(model) == before


def test_train_distributed_says_that_it_trains_such_a_model_itself(caplog):
    model = classifier(Opaque(layers.Dense(4)))
    with caplog.at_level(logging.WARNING, "tfbig"):
        result = tfbig.train_distributed(model, input_fn, max_steps=1, config=CONFIG)
    assert result.model is model
    said = [r.getMessage() for r in caplog.records if "is trained itself" in r.getMessage()]
    assert len(said) == 1
    assert repr(model.name) in said[0]


def test_a_config_that_hands_over_a_layer_itself_is_refused():
    model = classifier(Handing(layers.Dense(4, name="inner")))
    with pytest.raises(CANNOT_BE_REBUILT, match="a config contains the layer 'inner' itself"):
        rebuilt(model)
