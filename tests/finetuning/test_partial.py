"""Some of a file's weights into another model, and a table of what was done."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.finetuning.pretrained import X, batches, build, save_all, trained
from tfbig.errors import UserError
from tfbig.finetuning.partial import load_weights

BODY = {"body/kernel", "body/bias", "norm/gamma", "norm/beta"} | {
    "norm/moving_mean",
    "norm/moving_variance",
}
FORMATS = ("keras", "h5", "weights", "bare_checkpoint")


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    return save_all(model, tmp_path_factory.mktemp("saved"))


def plain(names) -> set[str]:
    return {"/".join(name.split("/")[-2:]) for name in names}


def body(model) -> list[np.ndarray]:
    return model.get_layer("body").get_weights() + model.get_layer("norm").get_weights()


@pytest.mark.parametrize("fmt", ["keras", "h5", "weights"])
def test_by_name_all_but_the_new_head_is_loaded(model, paths, fmt):
    other = build(units=5)
    head = other.get_layer("head").get_weights()
    report = load_weights(other, paths[fmt], by="name")
    assert plain(name for name, _, _ in report.loaded) == BODY
    assert plain(report.new) == {"head/kernel", "head/bias"}
    assert {reason for _, reason in report.skipped} == {
        "shape [4, 2] against [4, 5] in the model",
        "shape [2] against [5] in the model",
    }
    for ours, theirs in zip(body(other), body(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(other.get_layer("head").get_weights(), head, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "6 loaded, 2 skipped, 2 new" in str(report)
    assert "skipped" in str(report)
    assert "shape [4, 2] against [4, 5]" in str(report)


def test_a_model_dir_gives_its_weights_by_name(tmp_path):
    result = tfbig.train_distributed(build, batches, max_steps=3, model_dir=str(tmp_path))
    other = build(units=5)
    report = load_weights(other, tmp_path)
    assert plain(name for name, _, _ in report.loaded) == BODY
    for ours, theirs in zip(body(other), body(result.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_automatic_names_agree_whatever_numbers_they_have(tmp_path):
    def automatic():
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(8)])

    first = automatic()  # dense, dense_1
    first.save_weights(tmp_path / "model.weights.h5")
    first.save(tmp_path / "model.h5")
    for name in ("model.weights.h5", "model.h5"):
        second = automatic()  # dense_2, dense_3
        report = load_weights(second, tmp_path / name)
        assert len(report.loaded) == 4
        assert not report.skipped
        assert not report.new
        np.testing.assert_array_equal(second(X), first(X))


def test_by_shape_other_names_are_taken_in_order(paths, model):
    other = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(4, activation="relu", name="trunk"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="classes"),
        ]
    )
    named = load_weights(other, paths["h5"], by="name")
    assert plain(named.new) == {"trunk/kernel", "trunk/bias", "classes/kernel", "classes/bias"}
    report = load_weights(other, paths["h5"], by="shape")
    assert plain(report.new) == {"classes/kernel", "classes/bias"}
    np.testing.assert_array_equal(
        other.get_layer("trunk").get_weights()[0], model.get_layer("body").get_weights()[0]
    )


def test_a_nested_backbone_is_found_by_its_layers_names(paths, model):
    backbone = keras.Sequential(build().layers[:-1], name="backbone")
    inputs = keras.Input((8,))
    other = keras.Model(inputs, keras.layers.Dense(7, name="new")(backbone(inputs)))
    report = load_weights(other, paths["weights"])
    assert plain(name for name, _, _ in report.loaded) == BODY
    assert {reason for _, reason in report.skipped} == {"the model has no such weight"}
    np.testing.assert_array_equal(backbone.get_layer("body").kernel, model.get_layer("body").kernel)


@pytest.mark.parametrize("fmt", FORMATS)
def test_exact_loads_all_or_nothing(paths, model, fmt):
    other = build()
    assert len(load_weights(other, paths[fmt], by="exact").loaded) == 8
    np.testing.assert_array_equal(other(X), model(X))
    wider = build(units=5)
    before = wider.get_weights()
    with pytest.raises(UserError, match="does not match the model|another model"):
        load_weights(wider, paths[fmt], by="exact")
    for ours, theirs in zip(wider.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_of_which_nothing_fits_is_an_error_that_shows_both(paths):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="elsewhere")])
    with pytest.raises(UserError, match=r"nothing in .* fits.*\[8, 4\].*elsewhere/kernel \[3, 3\]"):
        load_weights(other, paths["weights"], by="shape")


@pytest.mark.parametrize(
    ("path", "by", "said"),
    [
        ("absent.h5", "name", "no such file"),
        ("weights", "names", "expected one of 'name', 'shape', 'exact'"),
    ],
)
def test_mistakes_are_named(paths, path, by, said):
    with pytest.raises(UserError, match=said):
        load_weights(build(), paths.get(path, path), by=by)


def test_a_model_without_weights_is_asked_to_be_built(paths):
    with pytest.raises(UserError, match="has no weights yet"):
        load_weights(keras.Sequential([keras.layers.Dense(2)]), paths["weights"])


def test_a_tf_checkpoint_gives_weights_by_name(tmp_path):
    module = tf.Module()
    module.body = tf.Module()
    module.body.kernel = tf.Variable(np.ones([8, 4], "float32"))
    tf.train.Checkpoint(model=module).write(str(tmp_path / "ckpt"))
    other = build()
    report = load_weights(other, tmp_path / "ckpt")
    assert plain(name for name, _, _ in report.loaded) == {"body/kernel"}
    assert float(np.sum(other.get_layer("body").kernel)) == 32.0
