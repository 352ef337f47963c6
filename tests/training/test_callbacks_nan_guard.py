"""NaNGuard, and the search for the first op with a NaN."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig.errors import TrainingDiverged
from tfbig.training.callbacks.nan_guard import NaNGuard, locate_first_bad_op


def message_of(guard, step, describe=None):
    with pytest.raises(TrainingDiverged) as caught:
        guard.on_nonfinite(step, describe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_nan_guard_names_the_first_step_and_what_to_try():
    assert message_of(NaNGuard(), 37, lambda: None) == (
        "the loss is NaN or infinite, for the first time at step 37; try a lower learning rate, "
        "or clipping (global_clipnorm=1.0 on the optimizer), and check the input; "
        "NaNGuard(find_op=True) names the first op with a NaN."
    )


def test_the_nan_guard_names_an_error_in_the_input_first():
    assert message_of(NaNGuard(), 1, lambda: "features['x'] has NaN in example 3") == (
        "features['x'] has NaN in example 3; the loss is NaN or infinite, for the first time at "
        "step 1; repair or leave out such examples in input_fn, and check the input; "
        "NaNGuard(find_op=True) names the first op with a NaN."
    )


def test_the_nan_guard_names_the_op_on_request_only():
    guard = NaNGuard(find_op=True)
    guard.locate_op = lambda: "Log (float32, shape (2,)), model.py line 12"
    assert message_of(guard, 5) == (
        "the loss is NaN or infinite, for the first time at step 5; the first op with a NaN or "
        "infinite output is Log (float32, shape (2,)), model.py line 12; try a lower learning "
        "rate, or clipping (global_clipnorm=1.0 on the optimizer), and check the input."
    )
    guard.locate_op = lambda: None
    assert "no op had a NaN or infinite output when the step was run again" in message_of(guard, 5)
    calls = []
    guard = NaNGuard()
    guard.locate_op = lambda: calls.append(1)
    message_of(guard, 5)
    assert calls == []


def test_a_diagnosis_that_fails_does_not_hide_the_nan(caplog):
    def fail():
        raise RuntimeError("no batch\nany more")

    guard = NaNGuard(find_op=True)
    guard.locate_op = fail
    assert "for the first time at step 5" in message_of(guard, 5, fail)
    assert "describing the input batch failed: no batch any more" in caplog.text


def log_of(x):
    return tf.reduce_sum(tf.math.log(x) * 2.0)


def test_locating_names_the_first_op_its_output_and_the_line(caplog):
    line = log_of.__code__.co_firstlineno + 1
    expected = f"Log (float32, shape (2,)), test_callbacks_nan_guard.py line {line}"
    assert locate_first_bad_op(log_of, tf.constant([1.0, -1.0])) == expected
    assert locate_first_bad_op(log_of, tf.constant([1.0, 2.0])) is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_locating_finds_ops_in_functions_that_are_already_traced_and_compiled(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def steps(x):
        for _ in tf.range(3):
            x = x / (x - 1.0)
        return x

    steps(tf.constant([2.0]))
    found = locate_first_bad_op(steps, tf.constant([1.0]))
    assert re.match(
        r"RealDiv \(float32, shape \(1,\)\), test_callbacks_nan_guard\.py line \d+$", found
    )
    assert not tf.config.functions_run_eagerly()
    # The checks are disabled again: the result is infinite, without an error.
    steps(tf.constant([1.0]))


def test_locating_finds_an_op_of_the_gradient():
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sqrt(x)
        return tape.gradient(y, x)

    assert locate_first_bad_op(gradient, tf.constant([0.0])).startswith("SqrtGrad (float32, ")


def test_locating_runs_code_that_needs_a_graph_as_a_graph():
    def graph_only(x):
        y = tf.sqrt(x, name="root")
        return tf.gradients(tf.reduce_sum(y), x)

    found = locate_first_bad_op(graph_only, tf.constant([0.0, 1.0]))
    assert found.startswith("SqrtGrad (named gradients/root_grad/SqrtGrad, float32, shape (2,))")
    assert "test_callbacks_nan_guard.py line" in found
    assert locate_first_bad_op(graph_only, tf.constant([1.0])) is None


def test_locating_names_the_layer_of_a_keras_model():
    class Logarithm(keras.layers.Layer):
        def call(self, x):
            return keras.ops.log(x)

    model = keras.Sequential([keras.Input((2,)), Logarithm()])
    found = locate_first_bad_op(model, tf.constant([[1.0, -1.0]]))
    assert found.startswith("Log (float32, shape (1, 2)) in Logarithm.call()")


def test_locating_works_inside_the_replicas_of_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    @tf.function
    def step(x):
        return strategy.run(log_of, args=(x,))

    assert locate_first_bad_op(step, tf.constant([-1.0])).startswith("Log (float32, shape (1,))")


def test_locating_warns_if_the_function_fails_for_another_reason(caplog):
    def fail():
        raise KeyError("labels")

    assert locate_first_bad_op(fail) is None
    assert "looking for the first op with a NaN failed" in caplog.text
    assert np.isnan(tf.math.log(tf.constant(-1.0)))  # the checks are disabled again
