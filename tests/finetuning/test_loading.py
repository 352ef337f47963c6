"""Every format comes back as it was saved: predictions, and the optimizer's state where it is."""

import logging
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.finetuning.pretrained import X, Y, batches, build, builder_for, save_all, trained
from tfbig.errors import UserError
from tfbig.finetuning import graph_layer
from tfbig.finetuning.loading import load_model

FORMATS = (
    "keras",
    "h5",
    "weights",
    "savedmodel",
    "checkpoint",
    "bare_checkpoint",
    "named_checkpoint",
)


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    return save_all(model, tmp_path_factory.mktemp("saved"))


def predictions(model) -> np.ndarray:
    return np.asarray(model(X, training=False))


def assert_same_optimizer(one, other):
    assert int(one.optimizer.iterations.numpy()) == int(other.optimizer.iterations.numpy())
    for ours, theirs in zip(one.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("fmt", FORMATS)
def test_load_save_load_gives_equal_predictions(model, paths, tmp_path, fmt):
    loaded = load_model(paths[fmt], base_model_fn=builder_for(fmt))
    np.testing.assert_allclose(predictions(loaded), predictions(model), atol=1e-6)
    loaded.save(tmp_path / "again.keras")
    again = load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(predictions(again), predictions(loaded))


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt != "savedmodel"])
def test_the_optimizer_goes_on_where_it_was(model, paths, tmp_path, fmt):
    loaded = load_model(paths[fmt], base_model_fn=builder_for(fmt))
    assert int(loaded.optimizer.iterations.numpy()) == 6
    assert_same_optimizer(loaded, model)
    loaded.save(tmp_path / "again.keras")
    assert_same_optimizer(load_model(tmp_path / "again.keras"), model)
    ours = [loaded.train_on_batch(X, Y) for _ in range(2)]
    assert int(loaded.optimizer.iterations.numpy()) == 8
    assert ours[0] != ours[1]


@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "AdamW"])
def test_h5_keeps_other_optimizers_losses_and_metrics(tmp_path, kind):
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = {
        "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        "RMSprop": lambda: keras.optimizers.RMSprop(decay),
        "AdamW": lambda: keras.optimizers.AdamW(weight_decay=0.1),
    }[kind]()
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer, loss, metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    )
    labels = np.arange(32) % 3
    model.fit(X, labels, epochs=2, verbose=0)
    model.save(tmp_path / "model.h5")
    loaded = load_model(tmp_path / "model.h5")
    assert_same_optimizer(loaded, model)
    assert loaded.loss.from_logits
    ours, theirs = (m.evaluate(X, labels, verbose=0, return_dict=True) for m in (loaded, model))
    assert ours == pytest.approx(theirs, rel=1e-6)
    model.fit(X, labels, verbose=0, shuffle=False)
    loaded.fit(X, labels, verbose=0, shuffle=False)
    np.testing.assert_allclose(predictions(loaded), predictions(model), atol=1e-6)


def test_a_compile_state_that_cannot_be_told_is_left_out_with_one_line(tmp_path, caplog):
    model = build()
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "a") as file:
        text = file.attrs["training_config"]
        file.attrs["training_config"] = text.replace('"mse"', '"a_loss_of_mine"')
    with caplog.at_level(logging.INFO, "tfbig"):
        loaded = load_model(tmp_path / "model.h5")
    assert not loaded.compiled
    said = [r.getMessage() for r in caplog.records if r.name == "tfbig"]
    assert len(said) == 1
    assert "without its compile state" in said[0]
    np.testing.assert_array_equal(predictions(loaded), predictions(model))


def test_hdf5_is_known_by_its_bytes_whatever_its_name(model, paths, tmp_path):
    shutil.copy(paths["h5"], tmp_path / "model.keras")
    shutil.copy(paths["weights"], tmp_path / "weights.bin")
    for name, builder in (("model.keras", None), ("weights.bin", build)):
        loaded = load_model(tmp_path / name, base_model_fn=builder)
        np.testing.assert_array_equal(predictions(loaded), predictions(model))


def test_a_model_is_returned_as_it_is(model):
    assert load_model(model) is model


def test_classes_of_ones_own_are_found_by_name(tmp_path):
    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = keras.Sequential([keras.Input((8,)), Doubling()])
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} cannot be loaded.*custom_objects="):
            load_model(tmp_path / name)
        loaded = load_model(tmp_path / name, custom_objects={"Doubling": Doubling})
        np.testing.assert_array_equal(predictions(loaded), 2 * X)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_bytecode_is_loaded_only_without_safe_mode(tmp_path, name):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / name)
    with pytest.raises(UserError, match="Lambda layer with Python bytecode.*safe_mode=False"):
        load_model(tmp_path / name)
    loaded = load_model(tmp_path / name, safe_mode=False)
    np.testing.assert_array_equal(predictions(loaded), X + 1)


# Weights and what they need.


def test_a_model_dir_gives_the_newest_checkpoint_and_the_optimizers_state(tmp_path):
    result = tfbig.train_distributed(build, batches, max_steps=5, model_dir=str(tmp_path))
    loaded = load_model(tmp_path, base_model_fn=build)
    np.testing.assert_allclose(predictions(loaded), predictions(result.model), atol=1e-6)
    assert int(loaded.optimizer.iterations.numpy()) == 5
    assert_same_optimizer(loaded, result.model)


@pytest.mark.parametrize("fmt", ["weights", "checkpoint", "bare_checkpoint"])
def test_weights_alone_need_the_function_that_builds_their_model(paths, fmt):
    with pytest.raises(
        UserError, match="holds weights without an architecture; pass base_model_fn="
    ):
        load_model(paths[fmt])
    with pytest.raises(UserError, match="does not match the model|another model"):
        load_model(paths[fmt], base_model_fn=lambda: build(units=5))


def test_a_model_dir_of_another_model_says_which_weight_differs(tmp_path):
    tfbig.train_distributed(build, batches, max_steps=2, model_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"head/kernel is \[4, 5\] here and \[4, 2\] there"):
        load_model(tmp_path, base_model_fn=lambda: build(units=5))


def test_base_model_fn_is_handed_the_params(paths, model):
    loaded = load_model(
        paths["weights"], base_model_fn=lambda params: build(params["units"]), params={"units": 2}
    )
    np.testing.assert_array_equal(predictions(loaded), predictions(model))


# SavedModels.


class Linear(tf.Module):
    """Trainable but for `unused`, which no output depends on."""

    def __init__(self):
        self.weight = tf.Variable(np.ones([8, 2], "float32"), name="weight")
        self.scale = tf.Variable(2.0, trainable=False, name="scale")
        self.unused = tf.Variable(1.0, name="unused")

    @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x")])
    def __call__(self, x):
        return x @ self.weight * self.scale + tf.stop_gradient(self.unused)


class Writing(tf.Module):
    def __init__(self, path):
        self.path = str(path)

    @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x")])
    def __call__(self, x):
        tf.io.write_file(self.path, "written")
        return 2.0 * x


def test_a_graph_that_writes_files_is_refused_also_inside_a_keras_file(tmp_path):
    tf.saved_model.save(Writing(tmp_path / "mark"), tmp_path / "writing")
    with pytest.raises(UserError, match=r"writing is refused.*WriteFile.*safe_mode=False"):
        load_model(tmp_path / "writing")
    load_model(tmp_path / "writing", safe_mode=False).save(tmp_path / "again.keras")
    (tmp_path / "mark").unlink(missing_ok=True)
    graph_layer._trusted.clear()  # as in another process
    with pytest.raises(UserError, match=r"again\.keras.*WriteFile.*safe_mode=False"):
        load_model(tmp_path / "again.keras")
    assert not (tmp_path / "mark").exists()
    loaded = load_model(tmp_path / "again.keras", safe_mode=False)
    np.testing.assert_array_equal(predictions(loaded), 2 * X)


class Lookup(tf.Module):
    def __init__(self):
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
        self.table = tf.lookup.StaticHashTable(pairs, 0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def __call__(self, word):
        return {"value": self.table.lookup(word)}


def test_a_plain_modules_variables_are_trained_where_gradients_reach_them(tmp_path, caplog):
    tf.saved_model.save(Linear(), tmp_path / "linear")
    with caplog.at_level(logging.INFO, "tfbig"):
        model = load_model(tmp_path / "linear")
    assert [tuple(v.shape) for v in model.trainable_variables] == [(8, 2)]
    assert "can be trained: 1 weights, 16 parameters" in caplog.text
    assert "no gradient reaches unused" in caplog.text
    np.testing.assert_allclose(predictions(model), X @ np.ones([8, 2]) * 2 + 1, rtol=1e-5)


def test_a_savedmodel_with_a_table_is_a_frozen_feature_extractor(tmp_path, caplog):
    module = Lookup()
    tf.saved_model.save(module, tmp_path / "lookup", signatures=module.__call__)
    with caplog.at_level(logging.INFO, "tfbig"):
        model = load_model(tmp_path / "lookup")
    assert "is a frozen feature extractor: it looks values up in a table" in caplog.text
    words = tf.constant(["b", "a", "c"])
    assert model(words).numpy().tolist() == [2, 1, 0]
    assert not model.trainable_variables
    model.save(tmp_path / "again.keras")
    assert load_model(tmp_path / "again.keras")(words).numpy().tolist() == [2, 1, 0]


def test_an_exported_models_gradients_are_those_of_its_layers(model, paths):
    loaded = load_model(paths["savedmodel"])
    assert len(loaded.trainable_variables) == 6
    assert len(loaded.variables) == 8
    sizes = []
    for one in (model, loaded):
        variables = [v.value for v in one.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((one(X, training=False) - Y) ** 2)
        sizes.append(sorted(float(tf.norm(g)) for g in tape.gradient(loss, variables)))
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-4)


def tuned_on(devices: int, path: str) -> list:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, logical)
    model = load_model(path)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    placement = {"strategy": "mirrored", "devices": devices} if devices > 1 else {}
    config = tfbig.RunConfig(tf_random_seed=1)
    result = tfbig.train_distributed(model, batches, max_steps=6, config=config, **placement)
    return [w.tolist() for w in result.model.get_weights()]


@pytest.mark.slow
def test_a_savedmodel_is_tuned_alike_on_one_device_and_two_replicas(paths, in_process, tmp_path):
    found = []
    for devices in (1, 2):
        found.append(in_process(tuned_on, devices, paths["savedmodel"]))
    before = load_model(paths["savedmodel"]).get_weights()
    assert (
        max(np.abs(np.subtract(a, b)).max() for a, b in zip(found[0], before, strict=True)) > 0.01
    )
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
