"""Layers that join the training later, and rates that differ by layer."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.training import small_runs
from tests.training.small_runs import arrays, checkpoint, checkpoint_steps, saved_variables
from tfbig.errors import UserError
from tfbig.programs.keras.trainable_layers import Tuning, attach

END = 30
RATE = 0.25


def build(optimizer=None, attached=True, **keywords) -> keras.Model:
    """Trains its head from the start, the middle from step 10 on, the first layers from 20."""
    dense, normal = keras.layers.Dense, keras.layers.BatchNormalization
    first = dense(8, "relu", use_bias=False)
    layers = [first, normal(), dense(8, "relu"), dense(3)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **keywords,
    )
    if attached:
        rates = {variable.path: RATE for variable in layers[2].trainable_variables}
        attach(model, Tuning(rates, [(10, [layers[2]]), (20, layers[:2])]))
    return model


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays(160)).batch(16).repeat(3)


def run(model_dir=None, devices=1, max_steps=END, jit=False) -> tfbig.TrainResult:
    return tfbig.train_distributed(
        build,
        dataset,
        eval_input_fn=dataset,
        strategy="mirrored" if devices > 1 else "one_device",
        devices=devices,
        model_dir=model_dir,
        max_steps=max_steps,
        config=tfbig.RunConfig(
            tf_random_seed=1, save_checkpoints_steps=5, keep_checkpoint_max=100, jit_compile=jit
        ),
    )


def by_hand() -> list[np.ndarray]:
    """The same training as a plain loop over all batches."""
    keras.utils.set_random_seed(1)
    model = build(attached=False)
    first, normal, middle, _head = model.layers
    model.optimizer.build(model.trainable_variables)
    for step, (x, y) in enumerate(dataset()):
        middle.trainable = step >= 10
        first.trainable = normal.trainable = step >= 20
        before = {v.path: v.numpy() for v in middle.variables}
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        for variable in middle.variables:
            old = before[variable.path]
            variable.assign(old + RATE * (variable.numpy() - old))
    first.trainable = normal.trainable = middle.trainable = True
    return model.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_phases_and_rates_are_those_of_a_loop_by_hand(jit):
    for found, expected in zip(run(jit=jit).model.get_weights(), by_hand(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_what_is_frozen_keeps_its_bits_until_its_step():
    keras.utils.set_random_seed(1)
    start = build().get_weights()
    for steps, frozen in ((10, range(7)), (20, range(5))):
        now = run(max_steps=steps).model
        weights = now.get_weights()
        kept = [np.array_equal(a, b) for a, b in zip(weights, start, strict=True)]
        assert kept == [number in frozen for number in range(9)]


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 10, 15, 20])
def test_a_run_resumes_to_the_bit_in_and_between_phases(step, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(whole)
    os.makedirs(resumed / "checkpoints")
    os.rename(checkpoint(whole, step), checkpoint(resumed, step))
    run(resumed)
    assert checkpoint_steps(resumed)[-1] == END
    small_runs.assert_same_variables(saved_variables(whole, END), saved_variables(resumed, END))


@pytest.mark.slow
def test_two_replicas_give_the_same(tmp_path):
    # The moving statistics and what follows them are each replica's own from step 20 on.
    mirrored = harness.call(mirrored_until_20, tmp_path, timeout=120)
    expected_weights = run(max_steps=20).model.get_weights()
    for found, expected in zip(mirrored, expected_weights, strict=True):
        np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


def mirrored_until_20() -> list:
    model = run(devices=2, max_steps=20).model
    return [weight.tolist() for weight in model.get_weights()]


def test_rates_do_not_go_with_averaged_weights():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    with pytest.raises(UserError, match="cannot be combined with an optimizer's use_ema=True"):
        tfbig.train_distributed(lambda: build(optimizer), dataset, max_steps=2)
