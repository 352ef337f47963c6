"""The perceptron and the convolutional network."""

import json

import keras
import numpy as np
import pytest
from ml_collections import ConfigDict

import tfbig
from tfbig.errors import UserError
from tfbig.models import cnn, mlp

both = pytest.mark.parametrize("build", [mlp.build, cnn.build])


def images(n=5):
    return np.random.RandomState(0).rand(n, 8, 8, 1).astype(np.float32)


@both
def test_the_default_gives_ten_logits_for_an_image(build):
    logits = build()(images())
    assert logits.shape == (5, 10)
    assert logits.dtype == "float32"


@pytest.mark.parametrize(
    ("build", "params", "weights"),
    [
        (mlp.build, {}, 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10),
        (mlp.build, {"hidden_units": (), "num_classes": 3, "input_shape": (7,)}, 7 * 3 + 3),
        (
            cnn.build,
            {"filters": (4,), "hidden_units": (5,), "input_shape": (6, 4, 2), "num_classes": 3},
            (9 * 2 * 4 + 4) + (3 * 2 * 4 * 5 + 5) + (5 * 3 + 3),
        ),
    ],
)
def test_params_set_the_size(build, params, weights):
    assert build(params).count_params() == weights
    assert build(ConfigDict(params)).count_params() == weights


@both
def test_it_is_compiled_with_adam_cross_entropy_on_logits_and_accuracy(build):
    model = build({"num_classes": 4})
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    x, y = images(), np.array([0, 1, 2, 3, 3])
    logits = keras.ops.convert_to_numpy(model(x))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    results = model.evaluate(x, y, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(-np.log(chances[np.arange(5), y]).mean(), rel=1e-5)
    assert results["accuracy"] == pytest.approx((logits.argmax(-1) == y).mean())


@both
def test_dropout_is_there_when_asked_for_and_in_training_only(build):
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in build().layers)
    model = build({"dropout": 0.5})
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    x = images()
    np.testing.assert_array_equal(model(x), model(x))
    assert np.abs(model(x, training=True) - model(x)).max() > 1e-3


@both
def test_logits_are_float32_under_mixed_precision(build):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy(before)
    assert model.layers[-2].compute_dtype == "bfloat16"
    assert model(images()).dtype == "float32"


@both
def test_an_unknown_param_is_refused_and_data_is_left_to_input_fn(build):
    with pytest.raises(
        UserError, match=r"^unknown params of tfbig.models.*'width'; the known ones"
    ):
        build({"width": 3})
    build({"data": {"batch_size": 3}})


@both
def test_a_saved_model_is_loaded_in_safe_mode_and_predicts_the_same(build, tmp_path):
    model = build({"dropout": 0.1})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images()), model(images()))
    assert json.loads(loaded.to_json()) == json.loads(model.to_json())


def test_the_builders_are_found_from_the_package_without_importing_them():
    assert tfbig.models.mlp.build is mlp.build
    assert {"mlp", "cnn", "transformer_lm"} <= set(dir(tfbig.models))
    with pytest.raises(AttributeError, match="no attribute 'resnet'"):
        tfbig.models.resnet  # noqa: B018
