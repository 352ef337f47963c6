"""tfbig.export writes a SavedModel with the outputs of the model."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import classes, x
from tfbig.errors import UserError


def build() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5),
         layers.Dense(3, activation="softmax")]
    )  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def trained(model_fn=build, **arguments) -> keras.Model:
    def input_fn():
        return tfbig.data.ArraySource((x(4), classes())).batch(3)

    return tfbig.train_distributed(model_fn, input_fn, max_steps=4, **arguments).model


def served(path: str, features) -> np.ndarray:
    loaded = tf.saved_model.load(path)  # must outlive its function
    return loaded.serve(features).numpy()


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.fixture
def model() -> keras.Model:
    """A built model with new random weights."""
    return build()


@pytest.mark.slow
def test_an_export_has_the_model_s_outputs_for_any_number_of_examples(tmp_path):
    model = trained()
    assert model.layers[0].moving_mean.numpy().all()
    path = tfbig.export(model, tmp_path / "made" / "export")
    assert path == str(tmp_path / "made" / "export")
    for features in (x(4), x(4)[:1]):
        close(served(path, features), model.predict(features, verbose=0))
    assert os.listdir(tmp_path / "made") == ["export"]


@pytest.mark.slow
def test_exporting_changes_neither_the_model_nor_its_optimizer(tmp_path):
    model = trained()
    before = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    tfbig.export(model, tmp_path / "export")
    for variable, value in zip([*model.variables, *model.optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert model.compiled


class Subclassed(keras.Model):
    """Has no config, and takes a dict."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return {"sum": self.inner(inputs["a"]) + self.inner(inputs["b"])}


def test_a_subclassed_model_of_structures_is_exported_as_it_is(tmp_path):
    model = Subclassed(layers.Dense(2))
    features = {"a": x(4), "b": x(4, seed=3)}
    expected = model(features)["sum"]
    path = tfbig.export(model, tmp_path / "export")
    loaded = tf.saved_model.load(path)
    found = loaded.serve(features)
    assert list(found) == ["sum"]
    close(found["sum"], expected)


def test_a_keras_file_is_exported(model, tmp_path):
    file = tmp_path / "model.keras"
    model.save(file)
    close(served(tfbig.export(str(file), tmp_path / "one"), x(4)), model(x(4)))
    close(served(tfbig.export(file, tmp_path / "two"), x(4)), model(x(4)))


def test_an_earlier_export_is_replaced_completely(model, tmp_path):
    path = tfbig.export(model, tmp_path / "export")
    (tmp_path / "export" / "assets" / "old").write_text("of the earlier one")
    first = served(path, x(4))
    later = build()
    assert tfbig.export(later, path) == path
    close(served(path, x(4)), later(x(4)))
    assert np.abs(served(path, x(4)) - first).max() > 1e-3
    assert not (tmp_path / "export" / "assets" / "old").exists()
    assert os.listdir(tmp_path) == ["export"]


def test_an_empty_directory_may_be_given(model, tmp_path):
    (tmp_path / "export").mkdir()
    close(served(tfbig.export(model, tmp_path / "export"), x(4)), model(x(4)))


@pytest.mark.parametrize("fails", ["export", "rename"])
def test_a_failure_keeps_the_earlier_export_and_no_other_files(fails, model, tmp_path, monkeypatch):
    path = tfbig.export(model, tmp_path / "export")
    first = served(path, x(4))
    rename = os.rename

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    def rename_in(source, target):
        full() if ".tmp-" in source else rename(source, target)

    if fails == "export":
        monkeypatch.setattr(keras.Sequential, "export", full)
    else:
        monkeypatch.setattr(os, "rename", rename_in)
    with pytest.raises(UserError) as raised:
        tfbig.export(build(), path)
    assert str(raised.value) == (
        f"export to {path!r} failed: No space left on device; pass a writable directory."
    )
    np.testing.assert_array_equal(served(path, x(4)), first)
    assert os.listdir(tmp_path) == ["export"]


def test_other_files_are_not_deleted_for_an_export(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError) as raised:
        tfbig.export(model, tmp_path)
    assert str(raised.value) == (
        f"export to {str(tmp_path)!r}: it holds other files than a SavedModel; pass a new "
        "directory, or that of an earlier export to replace it."
    )
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_an_error(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "export"):
        with pytest.raises(UserError) as raised:
            tfbig.export(model, directory)
        message = str(raised.value)
        assert message.startswith(f"export to {str(directory)!r} failed: ")
        assert message.endswith("; pass a writable directory.")
        assert "\n" not in message
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.keras", "export: model_or_path='.*nowhere.keras': there is no such file"),
        ("weights.h5", "export: .*weights.h5 is empty"),
        ("folder.keras", "export: .*folder.keras is a folder without a model"),
    ],
)
def test_a_path_that_holds_no_model_is_an_error(name, message, tmp_path):
    (tmp_path / "weights.h5").write_text("")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(UserError, match=message):
        tfbig.export(tmp_path / name, tmp_path / "export")


@pytest.mark.parametrize("value", [None, 5, keras.Sequential([layers.Dense(2)])])
def test_an_unbuilt_model_is_an_error(value, tmp_path):
    with pytest.raises(UserError, match="^export: expected a keras.Model that has been trained or"):
        tfbig.export(value, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def export_mirrored(folder: str) -> dict:
    model = trained(strategy="mirrored", devices=2)
    path = tfbig.export(model, os.path.join(folder, "export"))
    np.save(os.path.join(folder, "outputs.npy"), model(x(4)).numpy())
    names = [name for name, _ in tf.train.list_variables(os.path.join(path, "variables/variables"))]
    return {"path": path, "replicas": sum("replica" in name for name in names)}


@pytest.mark.slow
def test_the_export_of_a_mirrored_model_has_no_replicas(in_process, tmp_path):
    found = in_process(export_mirrored, str(tmp_path))
    assert found["replicas"] == 0
    close(served(found["path"], x(4)), np.load(tmp_path / "outputs.npy"))
