"""Low-rank adapters: what they train, how they are merged, kept and put on again."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.finetuning import lora_runs, tuned_runs
from tests.finetuning.lora_runs import RECIPE, base, tokens, tune
from tests.training.small_runs import assert_same_variables, saved_variables
from tfbig.errors import CheckpointError, UserError
from tfbig.finetuning import load_adapters, load_model, save_adapters
from tfbig.programs.keras.adapters import adapted_layers, adapter_factors


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return tune(model_dir=str(tmp_path_factory.mktemp("lora") / "run"))


def predictions(model) -> np.ndarray:
    return model(tokens()[:, :-1], training=False).numpy()


def test_adapters_are_trained_and_all_else_stays_bit_for_bit(tuned):
    before = {weight.path: weight.numpy() for weight in base().weights}
    trained = [weight.path for weight in tuned.model.trainable_weights]
    assert len(adapted_layers(tuned.model)) == 4  # qkv, out and the two of the MLP
    assert len(trained) == 8
    for weight in tuned.model.weights:
        if weight.path in trained:
            assert np.any(weight.numpy() != 0)  # the second factor began at 0
        else:
            np.testing.assert_array_equal(weight.numpy(), before[weight.path])
    assert np.abs(predictions(tuned.model) - predictions(base())).max() > 0.01


def test_the_adapters_product_is_scaled_by_alpha_over_rank(tuned):
    layer = tuned.model.get_layer("block_0_mlp_in")
    (a, b), kernel = adapter_factors(layer), base().get_layer("block_0_mlp_in").kernel
    assert (a.shape, b.shape) == ((24, 3), (3, 96))
    expected = kernel.numpy() + 6 / 3 * (a.numpy() @ b.numpy())
    np.testing.assert_allclose(layer.kernel.numpy(), expected, atol=1e-6)


def test_the_exported_model_is_merged_and_predicts_the_same(tuned, tmp_path):
    path = tfbig.export(tuned.model, tmp_path / "export")
    served = tf.saved_model.load(path)
    np.testing.assert_allclose(
        served.serve(tf.constant(tokens()[:, :-1])), predictions(tuned.model), atol=1e-5
    )
    assert len(served.variables) == len(base().weights)


@pytest.mark.slow
def test_a_saved_model_is_merged_and_can_be_tuned_again(tuned, tmp_path):
    tuned.model.save(tmp_path / "tuned.keras")
    loaded = load_model(tmp_path / "tuned.keras")
    np.testing.assert_allclose(predictions(loaded), predictions(tuned.model), atol=1e-5)
    assert not adapted_layers(loaded)
    again = tune(loaded, steps=1, recipe=tfbig.Recipe(learning_rate=0.01))
    assert len(again.model.trainable_weights) == len(base().trainable_weights)
    moved = [
        np.abs(new.numpy() - old.numpy()).max()
        for new, old in zip(again.model.weights, loaded.weights, strict=True)
    ]
    assert min(moved) > 1e-3


def test_adapters_alone_reproduce_the_tuned_model_on_its_base(tuned):
    path = os.path.join(tuned.model_dir, "adapters.npz")
    model = load_adapters(base(), path)
    np.testing.assert_array_equal(predictions(model), predictions(tuned.model))
    assert os.path.getsize(path) < 12_000  # 4 layers of rank 3: 1 512 numbers and their names


def test_a_run_with_adapters_that_is_read_into_its_base_says_how_to_load_them(tuned):
    with pytest.raises(UserError) as error:
        tfbig.finetuning.load_model(tuned.model_dir, base_model_fn=base)
    path = os.path.join(tuned.model_dir, "adapters.npz")
    assert f"with tfbig.finetuning.load_adapters(model, {path!r})." in str(error.value)


def test_a_new_head_is_kept_with_the_adapters(tmp_path):
    recipe = tfbig.Recipe(head=5, lora_rank=2, learning_rate=0.01)
    pretrained = tuned_runs.pretrained()
    result = tuned_runs.tune(pretrained, recipe, steps=20, model_dir=str(tmp_path / "run"))
    assert len(result.model.trainable_weights) == 2 * 2 + 2
    model = load_adapters(pretrained, tmp_path / "run" / "adapters.npz")
    images, _ = tuned_runs.examples(5)
    np.testing.assert_array_equal(model(images).numpy(), result.model(images).numpy())


def test_the_last_layer_is_trained_as_a_whole_with_a_frozen_backbone():
    recipe = tfbig.Recipe(freeze="backbone", lora_rank=2)
    result = tuned_runs.tune(tuned_runs.pretrained(), recipe, steps=2)
    trained = [weight.path.split("/")[-2] for weight in result.model.trainable_weights]
    assert trained == ["first"] * 2 + ["second"] * 2 + ["old_head"] * 2


def test_layers_are_chosen_by_name_or_path():
    recipe = tfbig.Recipe(lora_rank=2, lora_layers=["*attention/qkv", "embedding"])
    result = tune(recipe=recipe, steps=1)
    names = sorted(layer.name for layer in adapted_layers(result.model))
    assert names == ["embedding", "qkv"]


@pytest.mark.slow
def test_the_run_goes_on_bit_for_bit(tuned, tmp_path):
    directory = str(tmp_path / "run")
    tune(steps=7, model_dir=directory)
    tune(model_dir=directory)
    assert_same_variables(saved_variables(directory, 12), saved_variables(tuned.model_dir, 12))


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_scale_of_its_adapters(tmp_path):
    directory = str(tmp_path / "run")
    tune(steps=2, model_dir=directory)
    recipe = tfbig.Recipe(**{**RECIPE, "lora_alpha": 64})
    with pytest.raises(CheckpointError, match="other lora_rank and lora_alpha .* 6.*now .* 64"):
        tune(steps=4, recipe=recipe, model_dir=directory)


@pytest.mark.slow
def test_two_replicas_give_what_one_device_gives(tuned, tmp_path):
    path = str(tmp_path / "base.keras")
    base().save(path)
    found = harness.call(lora_runs.weights_on_two_replicas, tmp_path, path, timeout=240)
    for one, other in zip(found, tuned.model.get_weights(), strict=True):
        np.testing.assert_allclose(np.array(one), other, atol=1e-5)


def test_predictions_on_a_rebuilt_model_have_the_adapters(tuned):
    data = tfbig.data.ArraySource(tokens()[:, :-1]).batch(7)
    found = np.stack(list(tfbig.predict(tuned.model, lambda: data)))
    np.testing.assert_allclose(found, predictions(tuned.model), atol=1e-5)


def test_adapters_are_refused_on_another_base(tuned):
    path = os.path.join(tuned.model_dir, "adapters.npz")
    other = keras.models.clone_model(base())
    with pytest.raises(UserError, match="adapters.npz: these adapters were trained on another"):
        load_adapters(other, path)
    with pytest.raises(UserError, match="these adapters were trained on another model"):
        load_adapters(tuned_runs.pretrained(), path)


@pytest.mark.parametrize("content", [b"", b"<html>", "truncated", "compressed", "other"])
def test_a_file_that_holds_no_adapters_is_refused_by_name(tuned, tmp_path, content):
    path, good = tmp_path / "bad.npz", os.path.join(tuned.model_dir, "adapters.npz")
    if content == "truncated":
        content = open(good, "rb").read()[:5000]
    elif content == "other":
        np.savez(path, kernel=np.zeros(3))
    elif content == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("about.npy", b"\0" * 10**6)
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UserError, match="bad.npz is not a file of adapters, or damaged"):
        load_adapters(base(), path)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match="nowhere.npz: No such file"):
        load_adapters(base(), "nowhere.npz")


def test_a_model_without_adapters_has_none_to_save(tmp_path):
    with pytest.raises(UserError, match="has no adapters; tune it with recipe="):
        save_adapters(base(), tmp_path / "adapters.npz")


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (dict(RECIPE, lora_layers="dense*"), r"Recipe.lora_layers='dense\*' matches no layer"),
        (dict(RECIPE, lora_layers="final_norm"), "'final_norm' is a LayerNormalization, which can"),
    ],
)
def test_layers_that_cannot_have_adapters_are_refused(recipe, says):
    with pytest.raises(UserError, match=says):
        tune(recipe=tfbig.Recipe(**recipe))


def test_the_table_shows_what_the_adapters_have(caplog):
    caplog.set_level("INFO", "tfbig")
    tune(steps=1)
    text = next(m for m in caplog.messages if m.startswith("layer "))
    rows = [line.split() for line in text.splitlines()]
    assert "block_0_mlp_in 2,760 360 adapters of rank 3".split() in rows
    assert "block_0_attention_norm 48 0".split() in rows


@pytest.mark.slow
def test_the_steps_are_those_of_keras_own_adapters():
    inputs, labels = tokens()[:, :-1], tokens()[:, 1:]

    def tuned_at(rate, steps):
        recipe = tfbig.Recipe(lora_rank=3, optimizer="sgd", learning_rate=rate)
        whole = tfbig.data.ArraySource((inputs, labels)).batch(len(labels))
        config = tfbig.RunConfig(tf_random_seed=3)
        return tfbig.fine_tune(
            base(), lambda: whole, recipe=recipe, max_steps=steps, config=config
        ).model

    model, optimizer = tuned_at(0.0, 1), keras.optimizers.SGD(0.5)
    assert all("call" not in vars(layer) for layer in adapted_layers(model))
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = loss_fn(labels, model(inputs, training=True))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
    for found, expected in zip(tuned_at(0.5, 5).weights, model.weights, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def test_statistics_of_a_layer_that_is_trained_are_kept_with_the_adapters(tmp_path):
    layers = [keras.layers.Dense(6), keras.layers.Dense(5), keras.layers.BatchNormalization()]
    pretrained = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    recipe = tfbig.Recipe(lora_rank=2, freeze="backbone", loss=loss, learning_rate=0.1)
    result = tuned_runs.tune(pretrained, recipe, steps=5, model_dir=str(tmp_path / "run"))
    images, _ = tuned_runs.examples(5)
    model = load_adapters(pretrained, tmp_path / "run" / "adapters.npz")
    np.testing.assert_array_equal(model(images).numpy(), result.model(images).numpy())


def test_every_damaged_byte_is_an_error_that_names_the_file_or_changes_nothing(tuned, tmp_path):
    good = open(os.path.join(tuned.model_dir, "adapters.npz"), "rb").read()
    path, expected = tmp_path / "bad.npz", predictions(tuned.model)
    for place in np.random.default_rng(0).integers(0, len(good), 150):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x2B]) + good[place + 1 :])
        try:
            model = load_adapters(base(), path)
        except UserError as error:
            assert "bad.npz" in str(error)
        else:  # a name or a time in the archive
            np.testing.assert_array_equal(predictions(model), expected)


def test_an_adapter_file_cannot_ask_for_more_memory_than_it_has_numbers(tmp_path):
    about = {"format": "tfbig adapters 1", "head": None, "layers": {"5": [10**7, 1]}, "base": ""}
    np.savez(tmp_path / "bad.npz", about=np.array(json.dumps(about)))
    with pytest.raises(UserError, match="bad.npz .* adapters of rank 10000000 and alpha 1"):
        load_adapters(base(), tmp_path / "bad.npz")
