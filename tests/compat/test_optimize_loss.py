"""tf.contrib.layers.optimize_loss: updates of layers, clipping, multipliers and decay."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.compat.v1.contrib import layers as contrib
from tfbig.errors import UserError

v1 = tf.compat.v1
X = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)


def trained(steps=2, **options):
    def model_fn(features, labels, mode):
        a = v1.get_variable("a", [2], initializer=v1.ones_initializer())
        b = v1.get_variable("b", [], initializer=v1.zeros_initializer())
        seen = v1.get_variable("seen", [], initializer=v1.zeros_initializer(), trainable=False)
        v1.add_to_collection(
            v1.GraphKeys.UPDATE_OPS, v1.assign(seen, 0.5 * seen + 0.5 * tf.reduce_mean(features))
        )
        loss = tf.reduce_mean(features @ a[:, None]) + b
        arguments = {"learning_rate": 0.1, "optimizer": "SGD", **options}
        op = contrib.optimize_loss(loss, v1.train.get_global_step(), **arguments)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=op)

    estimator = tfbig.Estimator(model_fn, config=tfbig.RunConfig(jit_compile=False))
    estimator.train(lambda: tf.data.Dataset.from_tensors(X).repeat(), steps=steps)
    return {name: estimator.get_variable_value(name) for name in ("a", "b", "seen", "global_step")}


GRADIENT = X.mean(0)  # of a; that of b is 1


def test_it_descends_counts_and_runs_the_updates_of_layers():
    found = trained()
    np.testing.assert_allclose(found["a"], 1 - 0.2 * GRADIENT, rtol=1e-6)
    assert found["b"] == pytest.approx(-0.2)
    assert found["seen"] == pytest.approx(0.75 * X.mean())
    assert found["global_step"] == 2


def test_gradients_are_multiplied_and_then_clipped_together():
    found = trained(gradient_multipliers={"a": 2.0}, clip_gradients=1.5)
    whole = np.append(2 * GRADIENT, 1.0)
    clipped = whole * 1.5 / np.linalg.norm(whole)
    np.testing.assert_allclose(found["a"], 1 - 0.2 * clipped[:2], rtol=1e-5)
    assert found["b"] == pytest.approx(-0.2 * clipped[2], rel=1e-5)


def test_the_learning_rate_decays_with_the_step():
    decay = lambda rate, step: v1.train.exponential_decay(rate, step, 1, 0.5)  # noqa: E731
    assert trained(learning_rate_decay_fn=decay)["b"] == pytest.approx(-0.1 - 0.05)
    own = lambda rate: v1.train.GradientDescentOptimizer(rate * 2)  # noqa: E731
    assert trained(optimizer=own)["b"] == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "Sgd"}, "expected a learning rate and one of"),
        ({"optimizer": 3}, "expected a name, an optimizer"),
        ({"gradient_noise_scale": 0.1}, "are not supported; leave them out"),
    ],
)
def test_errors_say_what_to_write(options, message):
    with pytest.raises(UserError, match=message):
        trained(**options)
