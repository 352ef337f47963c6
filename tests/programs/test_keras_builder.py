"""The model or model_fn of a user becomes a compiled model in the current scope."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.programs.batches import x
from tests.programs.rebuilt_models import called, compiled, nested
from tests.programs.test_rebuilding import NOT_REBUILT, Opaque, assert_same
from tfbig.errors import UserError
from tfbig.programs.keras.builder import KerasBuilder


def build(model_fn, *, params=None, precision="float32", owned=True) -> keras.Model:
    return KerasBuilder(model_fn, params, precision).build(lambda variable: owned)


# Functions that build.


def test_a_function_is_called_once_and_its_model_used():
    models = []

    def model_fn():
        models.append(compiled())
        return models[-1]

    assert build(model_fn) is models[0]
    assert len(models) == 1


def units(hidden, params=None):
    return compiled(layers.Dense(hidden if params is None else params["units"]))


@pytest.mark.parametrize(
    "model_fn",
    [
        lambda params: compiled(layers.Dense(params["units"])),
        lambda p: compiled(layers.Dense(p["units"])),
        lambda params=None: compiled(layers.Dense(params["units"])),
        lambda activation="relu", params=None: compiled(layers.Dense(params["units"], activation)),
        lambda *, params: compiled(layers.Dense(params["units"])),
        lambda params, /: compiled(layers.Dense(params["units"])),
        lambda *words, params, **keywords: compiled(layers.Dense(params["units"])),
    ],
    ids=["params", "another name", "a default", "second", "by name", "by place", "catch-all"],
)
def test_params_reach_a_function_that_asks_for_them(model_fn):
    assert build(model_fn, params={"units": 7}).output_shape == (None, 7)


@pytest.mark.parametrize("model_fn", [lambda a, b: 1, lambda a, params: 1, units])
def test_a_function_that_asks_for_something_else_is_refused(model_fn):
    with pytest.raises(UserError, match=r"model_fn requires .*is model_fn\(\) or model_fn\(params"):
        build(model_fn, params={"units": 7})


@pytest.mark.parametrize(("value", "shown"), [(None, "None"), ({"a": 1}, "a dict")])
def test_a_function_that_returns_no_model_is_refused(value, shown):
    with pytest.raises(UserError, match=f"^model_fn returned {shown}; return a compiled keras.Mo"):
        build(lambda: value)


def test_a_function_builds_under_the_precision_which_is_put_back():
    model = build(compiled, precision="mixed_bfloat16")
    assert model.layers[0].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_a_model_of_another_precision_is_refused():
    with pytest.raises(UserError, match="precision='mixed_float16', but the model .* in float32"):
        build(compiled(), precision="mixed_float16")


# Models.


def test_a_model_is_rebuilt():
    model = compiled()
    copy = build(model)
    assert copy is not model
    np.testing.assert_array_equal(copy(x(4)), model(x(4)))


@pytest.mark.parametrize("name", NOT_REBUILT)
def test_a_model_that_cannot_be_rebuilt_is_used_where_it_is_or_refused(name):
    make, reason = NOT_REBUILT[name]
    model = make()
    assert build(model) is model
    assert model.compiled
    with pytest.raises(UserError) as raised:
        build(model, owned=False)
    message = str(raised.value)
    assert message.startswith(f"{type(model).__name__} cannot be rebuilt on the replicas' dev")
    assert message.endswith("; pass a function that builds and compiles it.")
    assert reason in message
    assert "\n" not in message
    assert len(message) < 500


# A strategy.


def rebuild_mirrored() -> dict:
    # The models come first: TensorFlow's devices are set by then.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    plain, opaque = nested(), called(Opaque(layers.Dense(2)))
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    owns = strategy.extended.variable_created_in_scope
    with strategy.scope():
        copy = KerasBuilder(plain, None, "float32").build(owns)
        try:
            KerasBuilder(opaque, None, "float32").build(owns)
        except UserError as error:
            message = str(error)
    assert_same(copy, plain)
    return {"owned": all(owns(v.value) for v in copy.variables), "message": message}


def test_under_a_strategy_a_model_is_rebuilt_from_mirrored_variables(in_process):
    found = in_process(rebuild_mirrored)
    assert found["owned"]
    assert found["message"].startswith("Opaque cannot be rebuilt on the replicas' devices")
