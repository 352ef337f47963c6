"""Optimizers and schedules come from Keras by name, and a wrong name says what is right."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from tfbig.errors import UserError
from tfbig.training.step.optimizers import build_optimizer, build_schedule

OPTIMIZERS = {
    "gradient_descent": keras.optimizers.SGD,
    "sgd": keras.optimizers.SGD,
    "adadelta": keras.optimizers.Adadelta,
    "adafactor": keras.optimizers.Adafactor,
    "adagrad": keras.optimizers.Adagrad,
    "adam": keras.optimizers.Adam,
    "adamax": keras.optimizers.Adamax,
    "adamw": keras.optimizers.AdamW,
    "ftrl": keras.optimizers.Ftrl,
    "lamb": keras.optimizers.Lamb,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "schedulefreeadamw": keras.optimizers.ScheduleFreeAdamW,
}


def steps_of(optimizer: keras.optimizers.Optimizer, steps: int = 2) -> np.ndarray:
    """The weights after some steps with the same gradients each."""
    weights = keras.Variable([[1.0, -2.0], [3.0, 0.5]])
    optimizer.build([weights])
    for _ in range(steps):
        optimizer.apply([tf.constant([[0.5, 0.1], [-4.0, 0.0]])], [weights])
    return weights.numpy()


def rates(schedule, steps) -> list[float]:
    return [float(schedule(keras.Variable(step, dtype="int64"))) for step in steps]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_each_optimizer_equals_keras(name):
    ours = build_optimizer({"name": name, "learning_rate": 0.05})
    np.testing.assert_array_equal(steps_of(ours), steps_of(OPTIMIZERS[name](learning_rate=0.05)))
    assert type(ours) is OPTIMIZERS[name]


def test_every_optimizer_of_keras_is_known():
    with pytest.raises(UserError, match="expected one of") as caught:
        build_optimizer({"name": "adamm"})
    listed = str(caught.value).split("expected one of ")[1].rstrip(".").split(", ")
    assert sorted(listed) == sorted([*OPTIMIZERS, "momentum"])
    assert "optimizer.name='adamm'" in str(caught.value)


def test_gradient_descent_is_the_plain_rule():
    weights = steps_of(build_optimizer({"name": "gradient_descent", "learning_rate": 0.1}), steps=1)
    np.testing.assert_allclose(weights, [[0.95, -2.01], [3.4, 0.5]], rtol=1e-6)


def test_momentum_is_sgd_with_momentum_of_nine_tenths_unless_given():
    ours = build_optimizer({"name": "momentum", "learning_rate": 0.1})
    np.testing.assert_array_equal(
        steps_of(ours, 3), steps_of(keras.optimizers.SGD(0.1, momentum=0.9), 3)
    )
    assert build_optimizer({"name": "momentum", "momentum": 0.5}).momentum == 0.5


def test_a_learning_rate_may_be_an_integer():
    weights = steps_of(build_optimizer({"name": "sgd", "learning_rate": 1}), steps=1)
    np.testing.assert_allclose(weights, [[0.5, -2.1], [7.0, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("name", ["AdamW", "adam_w", "ADAMW"])
def test_names_are_the_same_in_any_case_and_with_underscores(name):
    assert type(build_optimizer({"name": name})) is keras.optimizers.AdamW


def test_a_config_dict_hands_over_every_argument():
    optimizer = build_optimizer(
        ConfigDict(
            {
                "name": "adamw",
                "learning_rate": 0.25,
                "weight_decay": 0.125,
                "beta_1": 0.5,
                "global_clipnorm": 2.0,
                "use_ema": True,
                "ema_momentum": 0.75,
            }
        )
    )
    config = optimizer.get_config()
    assert config["learning_rate"] == 0.25
    assert config["weight_decay"] == 0.125
    assert config["beta_1"] == 0.5
    assert config["global_clipnorm"] == 2.0
    assert (config["use_ema"], config["ema_momentum"]) == (True, 0.75)


def test_an_unknown_argument_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="'adam' has no 'clipnrom'; its arguments are: .*clipnorm"):
        build_optimizer({"name": "adam", "clipnrom": 1.0})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("adam", "optimizer='adam': expected a dict or a ConfigDict"),
        ({"learning_rate": 0.1}, "optimizer.name=None: expected one of adadelta"),
        ({"name": "adam", "learning_rate": "fast"}, "learning_rate='fast': expected a number"),
        ({"name": "adam", "learning_rate": -0.1}, "learning_rate=-0.1: expected a number"),
        ({"name": "adam", "learning_rate": math.nan}, "learning_rate=nan: expected a number"),
        ({"name": "sgd", "momentum": 3.0}, "'sgd' with {'momentum': 3.0}: `momentum` must be"),
    ],
)
def test_a_value_that_cannot_be_is_an_error_that_says_so(config, message):
    with pytest.raises(UserError) as caught:
        build_optimizer(config)
    assert message in str(caught.value)


def test_cosine_rises_to_its_peak_and_ends_at_its_end():
    schedule = build_schedule(
        {"schedule": "cosine", "peak": 0.4, "end": 0.04, "warmup_steps": 10}, total_steps=110
    )
    middle = 0.04 + 0.36 * 0.5
    np.testing.assert_allclose(
        rates(schedule, [0, 5, 10, 60, 110, 200]), [0, 0.2, 0.4, middle, 0.04, 0.04], rtol=1e-5
    )


def test_cosine_without_warm_up_equals_keras():
    ours = build_schedule({"schedule": "cosine", "peak": 0.3}, total_steps=50)
    theirs = keras.optimizers.schedules.CosineDecay(0.3, 50)
    assert rates(ours, range(0, 60, 7)) == rates(theirs, range(0, 60, 7))
    assert rates(ours, [0]) == pytest.approx([0.3])


def test_linear_goes_straight_from_peak_to_end():
    schedule = build_schedule(
        {"schedule": "linear", "peak": 1.0, "end": 0.5, "warmup_steps": 4, "decay_steps": 10},
        total_steps=1000,
    )
    np.testing.assert_allclose(
        rates(schedule, [0, 1, 4, 9, 14, 500]), [0, 0.25, 1.0, 0.75, 0.5, 0.5], rtol=1e-6
    )


@pytest.mark.parametrize("warmup", [0, 5])
def test_step_decay_changes_the_rate_at_each_boundary(warmup):
    schedule = build_schedule(
        {
            "schedule": "step",
            "peak": 8.0,
            "boundaries": (10, 20),
            "factor": 0.5,
            "warmup_steps": warmup,
        }
    )
    assert rates(schedule, [5, 9, 10, 19, 20, 1000]) == [8.0, 8.0, 4.0, 4.0, 2.0, 2.0]
    assert rates(schedule, [0]) == [0.0 if warmup else 8.0]


def test_constant_stays_at_its_peak_after_the_warm_up():
    schedule = build_schedule({"schedule": "constant", "peak": 0.5, "warmup_steps": 4})
    assert rates(schedule, [0, 2, 4, 5, 6, 10**6]) == [0.0, 0.25, 0.5, 0.5, 0.5, 0.5]
    assert rates(build_schedule({"schedule": "constant", "peak": 0.5}), [0, 1, 2]) == [0.5] * 3


def test_exponential_multiplies_by_its_rate_every_decay_steps():
    schedule = build_schedule(
        {"schedule": "exponential", "peak": 1.0, "decay_steps": 10, "decay_rate": 0.25}
    )
    np.testing.assert_allclose(rates(schedule, [0, 5, 10, 20]), [1.0, 0.5, 0.25, 0.0625], rtol=1e-6)


def test_any_schedule_of_keras_is_known_with_its_own_arguments():
    ours = build_schedule(
        {
            "schedule": "CosineDecayRestarts",
            "initial_learning_rate": 0.1,
            "first_decay_steps": 10,
        }
    )
    theirs = keras.optimizers.schedules.CosineDecayRestarts(0.1, 10)
    assert type(ours) is type(theirs)
    assert rates(ours, [0, 5, 12]) == rates(theirs, [0, 5, 12])


@pytest.mark.parametrize(
    "config",
    [
        {"schedule": "constant", "peak": 0.1, "warmup_steps": 3},
        {"schedule": "cosine", "peak": 0.1, "warmup_steps": 3, "decay_steps": 9},
        {"schedule": "linear", "peak": 0.1, "warmup_steps": 3, "decay_steps": 9},
        {"schedule": "step", "peak": 0.1, "warmup_steps": 3, "boundaries": [6]},
    ],
    ids=lambda config: config["schedule"],
)
def test_a_schedule_gives_the_same_rates_compiled_and_after_saving(config):
    schedule = build_schedule(config)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    compiled = tf.function(schedule, jit_compile=True)
    expected = rates(schedule, range(12))
    assert rates(copy, range(12)) == expected
    found = [float(compiled(tf.constant(step, tf.int64))) for step in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_an_optimizer_follows_its_schedule_step_by_step():
    rate = {"schedule": "linear", "peak": 1.0, "warmup_steps": 2, "decay_steps": 2}
    optimizer = build_optimizer({"name": "sgd", "learning_rate": rate})
    weights = keras.Variable([0.0])
    optimizer.build([weights])
    seen = []
    for _ in range(5):
        optimizer.apply([tf.constant([-1.0])], [weights])
        seen.append(float(weights.numpy()[0]))
    np.testing.assert_allclose(np.diff([0.0, *seen]), [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("config", "total_steps", "message"),
    [
        ({"schedule": "cosine", "peak": 0.1}, None, "the last step of the run is not known"),
        ({"schedule": "linear", "peak": 0.1, "warmup_steps": 9}, 9, "the run ends at step 9"),
        ({"schedule": "cosin", "peak": 0.1}, 9, "schedule='cosin': expected one of constant, cos"),
        ({"schedule": "cosine"}, 9, "'cosine' needs peak; write peak=…"),
        ({"schedule": "cosine", "peak": 1, "wramup": 1}, 9, "has no 'wramup'; its arguments are"),
        ({"schedule": "step", "peak": 1, "boundaries": [5, 3]}, 9, "expected increasing steps"),
        ({"schedule": "constant", "peak": 1, "warmup_steps": 0.5}, 9, "warmup_steps=0.5: expected"),
        ({"schedule": "linear", "peak": 1, "decay_steps": 0}, 9, "decay_steps=0: expected"),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error_that_says_so(config, total_steps, message):
    with pytest.raises(UserError) as caught:
        build_optimizer({"name": "adam", "learning_rate": config}, total_steps)
    assert message in str(caught.value)
