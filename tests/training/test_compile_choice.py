"""jit_compile: what "auto" chooses, what it falls back to, and what True insists on."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tfbig.errors import UserError


def sequential(*layers, shape=(8,)) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def source(shape=(8,), rows=32):
    x = np.random.default_rng(0).normal(size=(rows, *shape)).astype(np.float32)
    return tfbig.data.ArraySource((x, x.reshape(rows, -1)[:, :1])).batch(8)


def train(build, data=None, **options):
    jit = options.pop("jit_compile", "auto")
    config = tfbig.RunConfig(tf_random_seed=0, jit_compile=jit, save_checkpoints_steps=100)
    return tfbig.train_distributed(
        build, data or source, max_steps=4, config=config, strategy="one_device", **options
    )


def logged_choice(caplog) -> str:
    return next(m for m in caplog.messages if m.startswith("jit_compile="))


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO, logger="tfbig")


def test_auto_compiles_the_whole_loop_on_one_device(caplog):
    train(lambda: sequential(keras.layers.Dense(4)))
    assert logged_choice(caplog) == "jit_compile=True: the whole loop can be compiled"


@pytest.mark.parametrize("layer", [keras.layers.Conv1D(4, 3), keras.layers.MaxPooling1D(2)])
def test_auto_leaves_convolutions_on_cpus_to_tensorflow(caplog, layer):
    flat = keras.layers.Flatten()
    train(lambda: sequential(layer, flat, shape=(8, 2)), lambda: source((8, 2)))
    assert "convolutions" in logged_choice(caplog)
    assert logged_choice(caplog).startswith("jit_compile=False")


def test_auto_sees_the_convolutions_of_a_model_fn(caplog):
    def model_fn(features, labels, mode):
        x = keras.layers.Conv1D(4, 3)(features)
        loss = tf.reduce_mean((keras.layers.Dense(1)(keras.layers.Flatten()(x)) - labels) ** 2)
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD())

    train(model_fn, lambda: source((8, 2)))
    assert logged_choice(caplog).startswith("jit_compile=False")


@keras.saving.register_keras_serializable("tests")
class Uncompilable(keras.layers.Layer):
    """Has an operation that XLA does not know."""

    def call(self, x):
        return x + 0 * tf.cast(tf.strings.length(tf.strings.as_string(x)), x.dtype)


def test_auto_falls_back_with_one_line_that_names_the_operation(caplog):
    compiled = train(lambda: sequential(Uncompilable()))
    lines = [m for m in caplog.messages if "XLA cannot compile" in m]
    assert len(lines) == 1
    assert "AsString" in lines[0] or "StringLength" in lines[0]
    plain = train(lambda: sequential(), jit_compile=False)
    for a, b in zip(compiled.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_true_refuses_what_cannot_be_compiled_and_names_the_operation():
    with pytest.raises(UserError, match="jit_compile=True, but XLA cannot compile .*String"):
        train(lambda: sequential(Uncompilable()), jit_compile=True)


def test_true_refuses_shapes_that_are_not_known():
    def unknown():
        data = tf.data.Dataset.from_tensor_slices((np.ones([8, 8], "f4"), np.ones([8, 1], "f4")))
        shape = tf.TensorSpec([None, None], tf.float32)
        return data.batch(4).apply(
            lambda d: tf.data.Dataset.from_generator(
                lambda: iter(d), output_signature=(shape, tf.TensorSpec([None, 1], tf.float32))
            )
        )

    def build():
        model = keras.Sequential([keras.Input((None, 1)), keras.layers.GlobalMaxPooling1D()])
        model.add(keras.layers.Dense(1))
        inputs = keras.Input((None,))
        model = keras.Model(inputs, model(keras.ops.expand_dims(inputs, -1)))
        model.compile("sgd", "mse")
        return model

    with pytest.raises(UserError, match="jit_compile=True, but the shapes of the batches"):
        train(build, unknown, jit_compile=True)
    assert train(build, unknown).global_step == 2


def test_a_resumed_run_keeps_what_auto_chose(caplog, tmp_path):
    train(lambda: sequential(keras.layers.Dense(4)), model_dir=str(tmp_path))
    first = logged_choice(caplog)
    caplog.clear()
    config = tfbig.RunConfig(save_checkpoints_steps=100)
    tfbig.train_distributed(
        lambda: sequential(keras.layers.Dense(4)),
        source,
        strategy="one_device",
        max_steps=8,
        model_dir=str(tmp_path),
        config=config,
    )
    assert first.startswith("jit_compile=True")
    assert not [m for m in caplog.messages if m.startswith("jit_compile=")]


def mirrored_choices() -> dict:
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("tfbig")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    def run_mirrored(build, **fields):
        records.clear()
        tfbig.train_distributed(
            build,
            source,
            max_steps=2,
            strategy="mirrored",
            devices=2,
            config=tfbig.RunConfig(**fields),
        )
        return next(m for m in records if m.startswith("jit_compile="))

    def synchronized():
        return sequential(keras.layers.BatchNormalization(synchronized=True))

    choices = {"dense": run_mirrored(lambda: sequential(keras.layers.Dense(4)))}
    choices["synchronized"] = run_mirrored(synchronized)
    try:
        run_mirrored(synchronized, jit_compile=True)
    except UserError as error:
        choices["insisting"] = str(error)
    return choices


@pytest.mark.slow
def test_mirrored_measures_and_does_not_compile_across_replicas(tmp_path):
    choices = harness.call(mirrored_choices, tmp_path, timeout=120)
    assert "measured on one part of a batch" in choices["dense"]
    assert choices["synchronized"].startswith("jit_compile=False: XLA cannot compile layers")
    assert choices["insisting"].startswith("jit_compile=True, but XLA cannot compile layers")
