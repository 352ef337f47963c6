"""Repeated calls find variables by their names.

These tests guard current_keras_path and keras_variable_of of tfbig._private_api.
"""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.programs.batches import x
from tfbig.errors import UserError
from tfbig.programs.model_fn.variable_store import VariableStore


def new_store() -> VariableStore:
    return VariableStore(contextlib.nullcontext)


def traced(store: VariableStore, call, *, shape=(6, 4)) -> tuple[np.ndarray, list[str]]:
    """What `call` computes in a trace of its own, and the names that it used."""
    used: list[str] = []

    @tf.function(autograph=False)
    def trace(features):
        with store.scope() as names:
            outputs = call(features)
        used.extend(names)
        return outputs

    return trace(tf.constant(x(*shape[1:]))).numpy(), used


def two_layers(features):
    hidden = layers.Dense(3, activation="tanh")(features)
    return layers.Dense(2)(hidden)


def test_layers_made_in_another_trace_find_their_variables():
    store = new_store()
    first, names = traced(store, two_layers)
    assert names == ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    assert {n: tuple(v.shape) for n, v in store.variables.items()} == {
        "dense/kernel": (4, 3),
        "dense/bias": (3,),
        "dense_1/kernel": (3, 2),
        "dense_1/bias": (2,),
    }
    second, again = traced(store, two_layers)
    np.testing.assert_array_equal(first, second)
    assert again == names
    assert len(store.variables) == 4
    kernel, bias, kernel_1, bias_1 = store.variables.values()
    expected = np.tanh(x(4) @ kernel.numpy() + bias) @ kernel_1.numpy() + bias_1
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
    kernel_1.assign(tf.zeros([3, 2]))
    np.testing.assert_array_equal(traced(store, two_layers)[0], np.zeros([6, 2]))


def test_automatic_names_do_not_depend_on_what_was_made_before_or_between():
    layers.Dense(1)
    store = new_store()
    first, names = traced(store, two_layers)
    layers.Dense(1), layers.Dense(1)
    second, again = traced(store, two_layers)
    assert again == names == ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    np.testing.assert_array_equal(first, second)


def test_the_path_of_a_nested_layer_is_in_its_name():
    def call(features):
        block = keras.Sequential([layers.Dense(2, name="inner")], name="block")
        return block(features)

    assert traced(new_store(), call)[1] == ["block/inner/kernel", "block/inner/bias"]


def test_one_layer_called_twice_is_one_pair_of_variables_and_a_second_layer_is_another():
    def call(features):
        shared = layers.Dense(4, name="shared")
        other = layers.Dense(4, name="shared")  # Keras allows it
        return other(shared(shared(features)))

    names = traced(new_store(), call)[1]
    assert names == ["shared/kernel", "shared/bias", "shared/kernel__1", "shared/bias__1"]


def test_variables_are_made_with_their_own_values_dtypes_and_flags():
    def call(features):
        scale = tf.Variable([1.0, 2.0, 3.0, 4.0], name="scale")
        steps = tf.Variable(7, dtype=tf.int64, trainable=False, name="steps")
        layer = layers.BatchNormalization(name="norm")
        return layer(features) * scale + tf.cast(steps, tf.float32)

    store = new_store()
    traced(store, call)
    assert store.variables["scale"].numpy().tolist() == [1, 2, 3, 4]
    assert store.variables["steps"].dtype == tf.int64
    assert int(store.variables["steps"]) == 7
    assert store.trainable == {
        "scale": True,
        "steps": False,
        "norm/gamma": True,
        "norm/beta": True,
        "norm/moving_mean": False,
        "norm/moving_variance": False,
    }


def test_a_layer_that_is_frozen_says_so():
    def call(features):
        first = layers.Dense(2, name="first", trainable=False)
        second = layers.Dense(2, name="second")
        outputs = second(first(features))
        second.trainable = False
        return layers.Dense(1, name="third")(layers.BatchNormalization(name="norm")(outputs))

    store = new_store()
    frozen = [name for name in traced(store, call)[1] if store.is_frozen(name)]
    assert frozen == ["first/kernel", "first/bias", "second/kernel", "second/bias"]


def test_a_run_goes_on_where_names_were_left():
    store = new_store()
    with store.scope() as names:
        tf.Variable(1.0, name="a")
    with store.continued() as more:
        tf.Variable(2.0, name="a")
    assert more is names
    assert names == ["a", "a_1"]
    with store.scope() as names:
        assert float(tf.Variable(9.0, name="a")) == 1.0
    with store.continued():
        assert float(tf.Variable(9.0, name="a")) == 2.0


def test_variables_are_made_inside_the_placement_s_scope_alone():
    entered = []

    @contextlib.contextmanager
    def scope():
        entered.append(True)
        yield

    store = VariableStore(scope)
    entered.clear()  # the store has asked how many parameter servers there are
    traced(store, two_layers)
    traced(store, two_layers)
    assert len(entered) == 4


def test_the_name_of_a_variable_is_known_for_keras_and_tensorflow():
    store = new_store()
    with store.scope():
        layer = layers.Dense(2, name="layer")
        layer(x(4))
    assert store.name_of(layer.kernel) == "layer/kernel"
    assert store.name_of(layer.bias.value) == "layer/bias"
    assert store.name_of(tf.Variable(1.0)) is None


def test_a_name_used_with_another_shape_is_an_error():
    store = new_store()
    traced(store, lambda features: layers.Dense(3, name="a")(features))
    with pytest.raises(UserError) as raised:
        traced(store, lambda features: layers.Dense(5, name="a")(features))
    assert str(raised.value) == (
        "model_fn created the variable 'a/kernel' with shape (4, 3) before and now requests "
        "(4, 5); give the layers distinct names."
    )


@pytest.mark.parametrize("again", [[1.0, 2.0], np.zeros([2, 2]), 0.0])
def test_a_tensorflow_variable_of_another_shape_is_an_error(again):
    store = new_store()
    with store.scope():
        tf.Variable([1.0, 2.0, 3.0], name="v")
    with pytest.raises(UserError, match=r"'v' with shape \(3,\) before and now requests"):
        with store.scope():
            tf.Variable(again, name="v")


def test_a_new_name_is_an_error_once_the_store_is_closed():
    store = new_store()
    traced(store, lambda features: layers.Dense(3, name="a")(features))
    store.closed = True
    traced(store, lambda features: layers.Dense(3, name="a")(features))
    with pytest.raises(UserError, match="^model_fn created the variable 'b/kernel', which it"):
        traced(store, lambda features: layers.Dense(3, name="b")(features))


def test_a_value_computed_from_the_batch_is_an_error():
    with pytest.raises(UserError, match="^the initial value of the variable 'v' is computed from"):
        traced(new_store(), lambda features: tf.Variable(tf.reduce_sum(features), name="v"))


def test_a_constant_of_the_trace_is_a_value():
    store = new_store()
    traced(store, lambda features: features + tf.Variable(tf.constant([1.0, 2, 3, 4]), name="v"))
    assert store.variables["v"].numpy().tolist() == [1, 2, 3, 4]


def test_what_fails_while_a_variable_is_made_is_raised():
    def broken(shape, dtype=None):
        raise RuntimeError("no such file")

    with pytest.raises(RuntimeError, match="no such file"):
        traced(new_store(), lambda features: layers.Dense(3, kernel_initializer=broken)(features))


def on_two_replicas() -> dict:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    store = VariableStore(strategy.scope)

    def replica(features):
        with store.scope() as names:
            outputs = two_layers(features)
        return outputs, list(names)

    used = []

    @tf.function(autograph=False)
    def step(features):
        def run():
            outputs, names = replica(features)
            used.append(names)
            return outputs

        return strategy.experimental_local_results(strategy.run(run))

    first, second = step(tf.constant(x(4)))
    return {
        "names": used,
        "difference": float(np.max(np.abs(first - second))),
        "variables": list(store.variables),
        "mirrored": all(
            strategy.extended.variable_created_in_scope(v) for v in store.variables.values()
        ),
    }


def test_replicas_share_the_mirrored_variables_of_a_name(in_process):
    found = in_process(on_two_replicas)
    names = ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    assert found == {
        "names": [names, names],
        "difference": 0.0,
        "variables": names,
        "mirrored": True,
    }
