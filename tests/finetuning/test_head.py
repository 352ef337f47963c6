"""A new head takes the place of the last layer only where nothing is lost by that."""

import keras
import numpy as np
import pytest

from tfbig.finetuning.head import with_head

INPUTS = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def skipping() -> keras.Model:
    entered = keras.Input((6,))
    deep = keras.layers.Dense(6, name="down")(keras.layers.Dense(12, name="up")(entered))
    return keras.Model(entered, keras.layers.Add(name="sum")([entered, deep]))


def twice() -> keras.Model:
    entered, dense = keras.Input((6,)), keras.layers.Dense(6, name="dense")
    return keras.Model(entered, dense(dense(entered)))


def chain() -> keras.Model:
    layers = [keras.layers.Dense(4, name="body"), keras.layers.Dense(3), keras.layers.Softmax()]
    return keras.Sequential([keras.Input((6,)), *layers])


@pytest.mark.parametrize("make", [skipping, twice])
def test_a_layer_that_is_not_the_only_way_to_the_output_stays(make):
    base = make()
    model = with_head(base, 2)
    head = model.get_layer("head")
    expected = base(INPUTS).numpy() @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(model(INPUTS).numpy(), expected, atol=1e-6)


def test_a_last_dense_layer_is_replaced_with_what_comes_after_it():
    base = chain()
    model = with_head(base, 2)
    assert [layer.name for layer in model.layers[1:]] == ["body", "head"]
    head = model.get_layer("head")
    expected = base.get_layer("body")(INPUTS).numpy() @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(model(INPUTS).numpy(), expected, atol=1e-6)
