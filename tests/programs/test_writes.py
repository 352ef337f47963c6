"""A variable that a loop or a condition only reads is not taken for one that it changes."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig

v1 = tf.compat.v1
X = np.array([[1.0, 2.0], [3.0, 1.0], [0.5, 2.0]], np.float32)


def looped(x, w):
    """x w³, by a while_loop that reads the variable."""
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * w), (0, x))[1]


def chosen(x, w):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x * w, lambda: x - w)


def called(x, w):
    return tf.function(lambda y: y * w, autograph=False)(x)


def cased(x, w):
    return tf.switch_case(tf.constant(1), [lambda: x - w, lambda: x * w])


def model_fn_of(make):
    def model_fn(features, labels, mode):
        w = v1.get_variable("w", [2], initializer=v1.ones_initializer())
        y = tf.reduce_sum(make(features, w), 1)
        loss = tf.reduce_mean((y - 1.0) ** 2)
        step = v1.train.get_global_step()
        op = v1.train.GradientDescentOptimizer(0.01).minimize(loss, step)
        return tfbig.EstimatorSpec(mode, loss=loss, predictions=y, train_op=op)

    return model_fn


@pytest.mark.parametrize(("make", "power"), [(looped, 3), (chosen, 1), (called, 1), (cased, 1)])
def test_a_weight_that_is_read_inside_of_it_trains(make, power):
    estimator = tfbig.Estimator(model_fn_of(make), config=tfbig.RunConfig(jit_compile=False))
    estimator.train(lambda: tf.data.Dataset.from_tensors(X).repeat(), steps=3)
    w = np.ones(2)
    for _ in range(3):
        error = (X * w**power).sum(1) - 1
        w = w - 0.01 * (2 * error[:, None] * X * power * w ** (power - 1)).mean(0)
    np.testing.assert_allclose(estimator.get_variable_value("w"), w, rtol=1e-5)


def test_a_variable_that_a_loop_assigns_is_one_that_the_batch_changes():
    def model_fn(features, labels, mode):
        seen = v1.get_variable("seen", [], initializer=v1.zeros_initializer(), trainable=False)

        def body(i):
            with tf.control_dependencies([seen.assign_add(features[i, 0])]):
                return i + 1

        ran = tf.while_loop(lambda i: i < tf.shape(features)[0], body, [0])
        step = v1.assign_add(v1.train.get_global_step(), 1)
        op = tf.group(ran, step)
        return tfbig.EstimatorSpec(mode, loss=tf.reduce_sum(features), train_op=op)

    estimator = tfbig.Estimator(model_fn, config=tfbig.RunConfig(jit_compile=False))
    estimator.train(lambda: tf.data.Dataset.from_tensors(X).repeat(), steps=2)
    assert estimator.get_variable_value("seen") == 2 * X[:, 0].sum()
