"""Models with preprocessing layers compute the same as in Keras after they are rebuilt."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.preprocessing_models import (
    FEATURES,
    NUMBERS,
    adapted,
    build,
    fitted,
    input_fn_of,
    outputs,
    used,
)
from tfbig.errors import CheckpointError, UserError
from tfbig.finetuning.weights import fill
from tfbig.programs.keras.preprocessing import preprocessing_checksums
from tfbig.programs.keras.rebuilding import rebuilt, rebuilt_uncompiled

CONFIG = tfbig.RunConfig(jit_compile=False)


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FEATURES)
def test_a_model_made_again_computes_the_same(kind):
    model = build(kind)
    close(outputs(rebuilt(model), kind), outputs(model, kind))
    assert preprocessing_checksums(rebuilt(model)) == preprocessing_checksums(model)


def check_used(kind: str, found: dict) -> None:
    expected, loss = fitted(kind)
    for name in ("outputs", "predicted", "served"):
        close(found[name], expected)
    for name in ("loss", "loss of file"):
        close(found[name], loss)
    model = build(kind)
    model.fit(input_fn_of(kind)(), epochs=3, verbose=0, shuffle=False)
    close(found["tuned"], outputs(model, kind))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["adapted StringLookup", "TextVectorization of tf_idf", "adapted Normalization"],
)
def test_it_is_trained_resumed_evaluated_tuned_and_exported_as_keras_would(kind, tmp_path):
    check_used(kind, used(kind, str(tmp_path), strategy="one_device"))


def mirrored(folder: str) -> dict:
    # TensorFlow settles its devices with the first model.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    kinds = ("adapted TextVectorization", "adapted Normalization")
    return {k: used(k, f"{folder}/{k}", strategy="mirrored", devices=2) for k in kinds}


@pytest.mark.slow
def test_two_replicas_do_the_same(in_process, tmp_path):
    for kind, found in in_process(mirrored, str(tmp_path)).items():
        check_used(kind, found)


def test_xla_is_left_to_models_whose_layers_it_can_compile():
    kind = "adapted IntegerLookup"
    with pytest.raises(UserError) as raised:
        tfbig.train_distributed(
            lambda: build(kind), input_fn_of(kind), config=tfbig.RunConfig(jit_compile=True)
        )
    assert str(raised.value) == (
        "jit_compile=True, but XLA cannot compile a layer of the class IntegerLookup; write "
        'jit_compile="auto" or False.'
    )
    model = tfbig.train_distributed(lambda: build(kind), input_fn_of(kind), epochs=2).model
    close(outputs(model, kind), fitted(kind)[0])


def test_words_that_replace_those_of_the_config_and_inverted_lookups_are_kept(tmp_path):
    x = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["a", "b"])
    back = layers.StringLookup(vocabulary=["a", "b"], invert=True)
    (tmp_path / "words.txt").write_text("Ulm\nBonn\n")
    file = layers.IntegerLookup(vocabulary=[1, 2], num_oov_indices=0)
    words = layers.StringLookup(vocabulary=str(tmp_path / "words.txt"))
    model = keras.Model(x, [back(lookup(x)), words(x), file(words(x))])
    lookup.set_vocabulary(["Ulm", "Graz"])
    features = tf.constant([["Bonn"], ["Ulm"]])
    found = rebuilt_uncompiled(model)(features)
    for one, other in zip(found, model(features), strict=True):
        np.testing.assert_array_equal(one, other)
    assert lookup.get_vocabulary() == ["[UNK]", "Ulm", "Graz"]
    assert found[1].numpy().tolist() == [[2], [1]]


def test_a_layer_s_own_files_are_copied():
    @keras.saving.register_keras_serializable("test_preprocessing")
    class Scale(layers.Layer):
        factor = 1.0

        def call(self, x):
            return x * self.factor

        def save_assets(self, folder):
            with open(f"{folder}/factor", "w") as file:
                file.write(str(self.factor))

        def load_assets(self, folder):
            with open(f"{folder}/factor") as file:
                self.factor = float(file.read())

    model = keras.Sequential([keras.Input((3,)), Scale()])
    model.layers[0].factor = 5.0
    close(rebuilt_uncompiled(model)(NUMBERS), NUMBERS * 5)


def other(words) -> keras.Model:
    x = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(vocabulary=words, output_mode="one_hot")
    model = keras.Sequential([x, lookup, layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def test_a_checkpoint_is_not_read_with_other_words_in_the_same_number(tmp_path):
    def train(words, steps):
        tfbig.train_distributed(
            lambda: other(words), lambda: data().repeat(), max_steps=steps, model_dir=tmp_path,
            config=CONFIG,
        )  # fmt: skip

    data = input_fn_of("Hashing")
    train(["Ulm", "Graz"], 1)
    train(["Ulm", "Graz"], 2)
    with pytest.raises(CheckpointError, match="was written with other vocabularies or boundaries"):
        train(["Graz", "Ulm"], 3)
    fill(other(["Ulm", "Graz"]), str(tmp_path))
    with pytest.raises(UserError, match="let base_model_fn set the vocabularies and boundaries"):
        fill(other(["Graz", "Ulm"]), str(tmp_path))


def test_normalization_computes_with_the_statistics_of_a_checkpoint(tmp_path):
    def build_with(data):
        x = keras.Input((3,))
        norm = layers.Normalization()
        norm = adapted(norm, data) if data is not None else norm
        model = keras.Model(x, layers.Dense(2, kernel_initializer="ones")(norm(x)))
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    def train(data, steps):
        return tfbig.train_distributed(
            lambda: build_with(data), lambda: input_fn_of("adapted Normalization")().repeat(),
            max_steps=steps, model_dir=tmp_path, config=CONFIG,
        )  # fmt: skip

    expected = outputs(build_with(NUMBERS), "adapted Normalization")
    train(NUMBERS, 1)
    result = train(NUMBERS * 7, 2)
    close(outputs(result.model, "adapted Normalization"), expected)
    model = build_with(None)
    fill(model, str(tmp_path))
    close(outputs(model, "adapted Normalization"), expected)
