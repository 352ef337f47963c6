"""Keras's losses have the value of one replica where tfbig needs that."""

import keras
import tensorflow as tf

from tests.private_api.values import mirrored
from tfbig import _private_api


def losses_on_two_replicas() -> list:
    strategy = mirrored()
    loss = keras.losses.MeanSquaredError()

    def value(x):
        return loss(tf.zeros([2, 1]), x)

    @tf.function
    def run():
        return strategy.experimental_local_results(strategy.run(value, [tf.fill([2, 1], 2.0)]))

    with _private_api.unscaled_losses():
        ours = [float(v) for v in run()]
    run = tf.function(run.python_function)  # traced anew
    return ours + [float(v) for v in run()]


def test_unscaled_losses(in_process):
    assert in_process(losses_on_two_replicas) == [4.0, 4.0, 2.0, 2.0]
