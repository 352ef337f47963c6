"""What optimizers do in `apply` is what tfbig takes it for.

These tests guard disable_all_reduce of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.private_api.values import mirrored, weights
from tfbig import _private_api


def applied(strategy, *, already_reduced: bool, loss_scaled: bool) -> list:
    """A weight that was 0 and how many updates were counted, after the gradient 5 was applied."""
    with strategy.scope():
        weight = keras.Variable(np.zeros([1], "float32"))
        optimizer = keras.optimizers.SGD(1.0, clipnorm=1.0)
        if loss_scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
        optimizer.build([weight])

    @tf.function
    def step():
        scale = optimizer.scale_loss(tf.constant(1.0))
        strategy.run(lambda g: optimizer.apply([g], [weight]), [tf.constant([5.0]) * scale])

    if already_reduced:
        with _private_api.gradients_already_reduced(optimizer):
            step()
    else:
        step()
    return [float(weight.numpy()[0]), int(optimizer.iterations.numpy())]


def gradients_on_two_replicas() -> dict:
    strategy = mirrored()
    return {
        f"{reduced} {scaled}": applied(strategy, already_reduced=reduced, loss_scaled=scaled)
        for reduced in (True, False)
        for scaled in (True, False)
    }


def test_gradients_already_reduced(in_process):
    found = in_process(gradients_on_two_replicas)
    assert found["True False"] == [-1.0, 1]
    assert found["True True"] == [-1.0, 1]
    # Keras's own way: each replica's gradient is clipped to 1, and both are added.
    assert found["False False"] == [-2.0, 1]


def test_reduced_gradients_leave_the_optimizer_as_it_was():
    optimizer = keras.optimizers.SGD(1.0)
    before = optimizer._all_reduce_sum_gradients
    with _private_api.gradients_already_reduced(optimizer):
        assert optimizer._all_reduce_sum_gradients != before
    assert optimizer._all_reduce_sum_gradients == before
    with _private_api.gradients_already_reduced(None):
        pass


@pytest.mark.parametrize("constraint", [None, keras.constraints.NonNeg()])
def test_averages_are_put_in_place_as_keras_does_it(constraint):
    def run(ours: bool) -> list:
        weight = keras.Variable(np.float32([1.0, -1.0]))
        weight.constraint = constraint
        optimizer = keras.optimizers.SGD(
            0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
        )
        optimizer.build([weight])
        found = []
        for gradient in ([1.0, 2.0], [0.5, -3.0], [1.5, 1.0], [0.0, 0.0], [2.0, 2.0]):
            if ours:
                with _private_api.gradients_already_reduced(optimizer):
                    optimizer.apply([tf.constant(gradient)], [weight])
                    _private_api.overwrite_with_averages(optimizer)
            else:
                optimizer.apply([tf.constant(gradient)], [weight])
            found.append(weight.numpy())
        return found

    ours, plain = run(True), run(False)
    np.testing.assert_array_equal(ours, plain)
    assert not np.allclose(plain[1], plain[0] - 0.5 * np.float32([0.5, -3.0]))  # overwritten


def test_is_decayed():
    kernel, bias = weights()
    optimizer = keras.optimizers.AdamW(0.1)
    assert _private_api.is_decayed(optimizer, bias)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert _private_api.is_decayed(optimizer, kernel)
    assert not _private_api.is_decayed(optimizer, bias)
    optimizer.exclude_from_weight_decay(var_list=[kernel])
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer)
    assert not _private_api.is_decayed(wrapped, kernel)
    assert not _private_api.is_decayed(keras.optimizers.Adam(), kernel)
