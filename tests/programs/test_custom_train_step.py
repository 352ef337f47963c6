"""Programs of models with a custom train_step: their variables, and what they refuse."""

import types

import keras
import pytest
import tensorflow as tf

from tests.programs.batches import x
from tests.training.own_step_runs import adversaries, classifier
from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.keras.checks import check_model
from tfbig.programs.keras.custom_train_step import CustomStepProgram, has_custom_step, optimizers_of
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.run_config import RunConfig
from tfbig.training.model import build_program
from tfbig.training.step.own_train_step import (
    check_last_batch,
    check_own_step,
    check_parts,
    checked_program,
    watched_loss,
)


def built(model: keras.Model, *parts) -> CustomStepProgram:
    program = CustomStepProgram(model)
    specs = tuple(tf.TensorSpec([None, *p.shape[1:]], p.dtype) for p in parts)
    feed = types.SimpleNamespace(
        rows=6, batch_size=6, element_spec=specs if len(specs) > 1 else specs[0]
    )
    build_program(program, Placement(), feed, training=True)
    return program


def chosen(model: keras.Model) -> KerasProgram:
    return checked_program(model, Placement(), RunConfig(), types.SimpleNamespace(tail_size=None))


def test_the_kind_of_program_follows_from_the_methods_that_a_class_overrides():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    assert not has_custom_step(plain)
    assert type(chosen(plain)) is KerasProgram
    program = chosen(adversaries())
    assert type(program) is CustomStepProgram
    assert program.runs_custom_step(training=True)
    assert program.runs_custom_step(training=False)
    tested = type("Tested", (keras.Sequential,), {"test_step": lambda self, data: {}})
    model = tested([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    program = chosen(model)
    assert not program.runs_custom_step(training=True)
    assert program.runs_custom_step(training=False)
    assert program.pure


def test_building_makes_all_variables_and_changes_none():
    program = built(adversaries(), x(8))
    named = program.named_variables()
    assert sum(name.startswith("model/") for name in named) == 4 + 2 + 1
    # Adam: 2 of its own and 2 slots for each of 4 weights; SGD: 2 and one for each of 2.
    assert sum(name.startswith("optimizer/") for name in named) == 2 + 8 + 2 + 2
    assert named["optimizer/adam/iteration"].numpy() == 0
    assert program.optimizer is None
    assert program.learning_rate() is None
    assert [c["name"] for c in program.optimizer_config()] == [
        o.name for o in program.model.optimizers.values()
    ]
    assert program.settings() == {"number of replicas of its own train_step": 1}
    again = built(adversaries(), x(8)).named_variables()
    assert list(again) == list(named)


def test_variables_outside_of_layers_are_held_too():
    program = built(classifier(), x(8), x(1)[:, 0].astype("int32"))
    named = program.named_variables()
    assert named["attributes/classifier/raw"].numpy() == 0.0
    assert named["model/variable"].numpy() == 0.0  # of a list in a dict
    assert named["optimizer/adam/iteration"].numpy() == 0
    assert program.optimizer is program.model.optimizer
    assert program.learning_rate() == pytest.approx(1e-2)


def test_optimizers_are_found_in_attributes_lists_and_dicts():
    model = keras.Model()
    model.one = keras.optimizers.SGD()
    model.more = [keras.optimizers.Adam(), {"last": keras.optimizers.Lion()}]
    names = [type(optimizer).__name__ for optimizer in optimizers_of(model)]
    assert sorted(names) == ["Adam", "Lion", "SGD"]


def test_a_model_without_an_optimizer_is_taken_only_with_its_own_train_step():
    model = type("Own", (keras.Sequential,), {"train_step": lambda self, data: {}})()
    model.compile(optimizer=None)
    check_model(model, custom_steps=True)
    with pytest.raises(UserError, match="^Own has its own train_step, which tfbig's loop would no"):
        model.optimizer = keras.optimizers.SGD()
        check_model(model)
    with pytest.raises(UserError, match="is not compiled"):
        plain = keras.Sequential()
        plain.compile(optimizer=None)
        check_model(plain, custom_steps=True)


@pytest.mark.parametrize(
    ("runs_train_steps", "distribution", "said"),
    [
        (False, "replicated", 'strategy="parameter_server" updates them from its own'),
        (False, "replicated", 'write strategy="one_device", "mirrored" or "multi_worker"'),
        (True, "owner", "model_distribution='owner' cuts them into slices"),
        (True, "owner", 'write model_distribution="replicated"'),
    ],
)
def test_placements_that_update_variables_themselves_are_refused(
    runs_train_steps, distribution, said
):
    placement = Placement()
    placement.name, placement.runs_train_steps = "parameter_server", runs_train_steps
    program = CustomStepProgram(adversaries())
    config = RunConfig(model_distribution=distribution)
    with pytest.raises(UserError, match="^Adversaries has its own train_step, which .*") as raised:
        check_own_step(program, placement, config, types.SimpleNamespace(tail_size=None))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (keras.optimizers.SGD(gradient_accumulation_steps=2), "has gradient_accumulation_steps=2"),
        (keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=3), "overwrite_frequency=3"),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "one infinite gradient"),
    ],
)
def test_optimizers_that_keras_breaks_on_several_replicas_are_refused_there(optimizer, said):
    model, placement = adversaries(), Placement()
    model.optimizers["g"] = optimizer
    feed = types.SimpleNamespace(tail_size=None)
    check_own_step(CustomStepProgram(model), placement, RunConfig(), feed)
    placement.name, placement.num_replicas = "mirrored", 2
    with pytest.raises(UserError, match=said):
        check_own_step(CustomStepProgram(model), placement, RunConfig(), feed)


def test_a_batch_with_fewer_examples_than_replicas_is_refused_before_it_is_met():
    placement = Placement()
    placement.name, placement.num_replicas = "mirrored", 4
    feed = types.SimpleNamespace(tail_size=3)
    with pytest.raises(UserError, match=r"^a batch of eval_input_fn has 3 example\(s\) for 4 repl"):
        check_last_batch(CustomStepProgram(adversaries()), placement, feed, training=False)
    with pytest.raises(UserError, match=r"^a batch of input_fn has 3 example\(s\) for 4 replicas"):
        check_own_step(CustomStepProgram(adversaries()), placement, RunConfig(), feed)
    stack = types.SimpleNamespace(steps=2, sizes=[8, 2, 1], counts=[8, 2, 1])
    with pytest.raises(UserError, match="has 2 example.* write drop_remainder=True"):
        check_parts(stack, placement, training=True)
    stack.steps = 1
    check_parts(stack, placement, training=True)


def test_the_watched_loss_is_the_loss_or_the_sum_of_all_that_are_called_so():
    def watched(**logs):
        return float(watched_loss({name: tf.constant(value) for name, value in logs.items()}))

    assert watched(loss=2.0, d_loss=9.0) == 2.0
    assert watched(d_loss=2.0, g_loss=3.0, accuracy=float("nan")) == 5.0
    assert watched(accuracy=float("nan")) == 0.0
