"""The state of compiled models, the names of their variables, and requests of their layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import (
    CLOSE,
    batch,
    classes,
    classifier,
    dense,
    forward,
    keras_program,
    x,
)


def test_forward_changes_no_variable_and_returns_the_new_state():
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(momentum=0.5), layers.Dropout(0.5, seed=3),
         layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse", metrics=["mae"])
    program = keras_program(model, x(4), x(1))
    before = [v.numpy() for v in model.variables]
    found = forward(program, batch(x(4), x(1)))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    state = dict(zip([v.path.split("/")[-1] for v in program.state], found.state, strict=True))
    np.testing.assert_allclose(state["moving_mean"], 0.5 * x(4).mean(0), **CLOSE)
    np.testing.assert_allclose(state["moving_variance"], 0.5 + 0.5 * x(4).var(0), **CLOSE)
    assert state["seed_generator_state"].numpy().tolist() == [3, 1]
    again = forward(program, batch(x(4), x(1)), training=False)
    for variable, value in zip(program.state, again.state, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_gradients_flow_to_given_values_and_not_to_variables():
    model = dense(loss="mse")
    program = keras_program(model, x(4), x(1))
    values = program.read()
    with tf.GradientTape() as tape, program.tracing():
        tape.watch(values.trainable)
        total = program.forward(values, batch(x(4), x(1)), True).terms[0].total
    kernel = tape.gradient(total, values.trainable)[0]
    error = model(x(4)).numpy() - x(1)
    np.testing.assert_allclose(kernel, 2 * x(4).T @ error, rtol=1e-5, atol=1e-5)


def test_the_names_of_variables_are_the_same_for_a_second_model_of_a_process():
    def names() -> dict:
        return {
            name: tuple(variable.shape)
            for name, variable in keras_program(
                classifier(), x(4), classes()
            ).named_variables().items()
        }  # fmt: skip

    first, second = names(), names()
    assert first == second
    assert first["model/sequential/dense/kernel"] == (4, 3)
    assert first["optimizer/sgd/iteration"] == ()
    assert {name.split("/")[0] for name in first} == {"model", "optimizer", "metrics"}


def test_named_variables_are_all_variables_each_once():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4), layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae", "mae", keras.metrics.MeanAbsoluteError()])
    named = keras_program(model, x(4), x(1)).named_variables()
    expected = [*model.variables, *model.optimizer.variables]
    for metric in model.metrics[1:]:
        expected += metric.variables
    assert {id(v) for v in named.values()} == {id(v.value) for v in expected}
    kernels = [name for name in named if name.endswith("kernel") and name.startswith("model/")]
    assert [k.split("/")[-2] for k in kernels] == ["dense", "dense_1", "dense_2"]
    moments = [name for name in named if name.endswith("kernel_momentum")]
    assert [m.split("/")[-1] for m in moments] == [
        f"sequential_{layer}_kernel_momentum" for layer in ("dense", "dense_1", "dense_2")
    ]


@pytest.mark.parametrize(
    ("layer", "facts"),
    [
        (layers.Dense(4), (False, False, False)),
        (layers.BatchNormalization(), (False, True, False)),
        (layers.BatchNormalization(synchronized=True), (True, False, False)),
        (layers.TimeDistributed(layers.Conv1D(2, 1)), (False, False, True)),
    ],
)
def test_what_decides_on_the_step_is_seen_in_the_layers(layer, facts):
    model = keras.Sequential([keras.Input((2, 4, 1)), layer, layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    program = keras_program(model, x(2, 4, 1), x(1))
    found = (
        program.couples_replicas,
        program.per_replica_statistics,
        program.has_convolutions,
    )
    assert found == facts


@pytest.mark.parametrize("steps_per_loop", [1, 4])
def test_frozen_weights_keep_their_bits_however_a_batch_is_cut(steps_per_loop):
    """A sum of thirds would not give a weight back."""

    def model_fn():
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, trainable=False), layers.BatchNormalization(),
             layers.Dropout(0.5, seed=1), layers.Dense(1)]
        )  # fmt: skip
        model.compile("sgd", "mse")
        kernels.append(model.layers[0].kernel.numpy())
        return model

    kernels = []
    result = tfbig.train_distributed(
        model_fn,
        lambda: tfbig.data.ArraySource((x(4), x(1))).batch(5),
        max_steps=12,
        config=tfbig.RunConfig(accumulation_steps=3, steps_per_loop=steps_per_loop),
    )
    frozen, norm = result.model.layers[:2]
    np.testing.assert_array_equal(frozen.kernel, kernels[0])
    assert norm.moving_mean.numpy().all()
    assert result.model.layers[2].seed_generator.state.numpy().tolist() == [1, 12]
