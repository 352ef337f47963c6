"""fine_tune(remat=…): the blocks of a loaded model are recomputed, and only what is trained."""

import keras
import numpy as np
import pytest
from keras import layers

import tfbig
from tfbig.errors import UserError


def pretrained() -> keras.Model:
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(8, activation="relu", name=f"hidden_{i}") for i in range(6)]
    model = keras.Sequential(
        [keras.Input((4,)), *hidden, tfbig.layers.Dropout(0.2, seed=1), layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data() -> tfbig.data.Source:
    random = np.random.RandomState(0)
    arrays = random.normal(size=(32, 4)).astype("float32"), random.randint(0, 2, 32)
    return tfbig.data.ArraySource(arrays).batch(16)


def tuned(**keywords) -> list:
    recipe = tfbig.Recipe(head=2, freeze="hidden_[012]", unfreeze={3: "*"}, optimizer="sgd")
    config = keywords.pop("config", tfbig.RunConfig(tf_random_seed=1))
    result = tfbig.fine_tune(
        pretrained(), data, recipe=recipe, max_steps=6, config=config, **keywords
    )
    return [v.numpy() for v in result.model.variables]


@pytest.mark.slow
def test_frozen_and_joining_layers_are_tuned_to_the_same_weights():
    plain = tuned()
    for recomputed in (
        tuned(remat=True),
        tuned(config=tfbig.RunConfig(tf_random_seed=1, remat=True), remat=True),
    ):
        for mine, expected in zip(recomputed, plain, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6)
    assert any(np.any(v != w.numpy()) for v, w in zip(plain, pretrained().variables, strict=False))


def test_two_answers_are_refused():
    with pytest.raises(UserError, match="remat=False, but config has remat=True"):
        tuned(config=tfbig.RunConfig(remat=True), remat=False)
    with pytest.raises(UserError, match=r"RunConfig.remat='full': expected one of False, True"):
        tuned(remat="full")


def test_an_estimator_style_model_fn_is_refused():
    def model_fn(features, labels, mode):
        raise AssertionError("not called")

    with pytest.raises(UserError, match="model_fn is of estimator style; leave remat out"):
        tfbig.train_distributed(model_fn, data, max_steps=1, config=tfbig.RunConfig(remat=True))
