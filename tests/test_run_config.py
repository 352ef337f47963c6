"""RunConfig: defaults, and an error that names each value it cannot have."""

import copy
import dataclasses
import re

import pytest
from ml_collections import ConfigDict

import tfbig
from tfbig.errors import UserError
from tfbig.run_config import RunConfig, run_config_from


def test_the_defaults_are_those_of_the_public_page():
    assert dataclasses.asdict(RunConfig()) == {
        "data_distribution": "auto",
        "model_distribution": "replicated",
        "gradient_aggregation": "mean",
        "accumulation_steps": 1,
        "precision": "float32",
        "jit_compile": "auto",
        "remat": False,
        "steps_per_loop": "auto",
        "max_staleness": None,
        "save_checkpoints_steps": None,
        "save_checkpoints_secs": 600.0,
        "keep_checkpoint_max": 5,
        "eval_every_steps": None,
        "log_step_count_steps": 100,
        "save_summary_steps": 100,
        "tf_random_seed": None,
    }
    assert tfbig.RunConfig is RunConfig


@pytest.mark.parametrize(
    "fields",
    [
        dict(data_distribution="random", gradient_aggregation="sum", accumulation_steps=3),
        dict(precision="mixed_bfloat16", jit_compile=True, steps_per_loop=7, remat=True),
        dict(precision="mixed_float16", jit_compile=False, steps_per_loop="auto"),
        dict(save_checkpoints_secs=0.5, eval_every_steps=10, tf_random_seed=0),
        dict(save_checkpoints_steps=5, save_checkpoints_secs=60, tf_random_seed=2**31 - 1),
    ],
)
def test_every_value_that_is_built_is_kept(fields):
    config = RunConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


def test_checkpoints_by_steps_are_not_also_by_time():
    assert RunConfig(save_checkpoints_steps=100).save_checkpoints_secs is None


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("session_config", "devices="),
        ("train_distribute", 'tfbig.Estimator(…, strategy="mirrored")'),
        ("model_dir", "tfbig.Estimator(model_fn, model_dir=…)"),
        ("keep_checkpoint_every_n_hours", "keep_checkpoint_max"),
    ],
)
def test_what_tf_estimators_config_had_besides_is_refused_with_what_to_use(name, instead):
    with pytest.raises(UserError, match=re.escape(f"RunConfig({name}=…)")) as error:
        RunConfig(**{name: 1})
    assert instead in str(error.value)


def test_replace_copies_with_other_values():
    config = RunConfig(accumulation_steps=2).replace(save_checkpoints_steps=5)
    assert (config.accumulation_steps, config.save_checkpoints_steps) == (2, 5)
    assert copy.deepcopy(config) == config


def test_it_cannot_be_changed_but_copied():
    config = RunConfig(accumulation_steps=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.accumulation_steps = 3
    assert dataclasses.replace(config, accumulation_steps=3).accumulation_steps == 3
    with pytest.raises(UserError, match="accumulation_steps=0"):
        dataclasses.replace(config, accumulation_steps=0)


WHOLE = "expected an integer of 1 or more"


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        (
            "data_distribution",
            ("rand", None, 1),
            "expected one of 'auto', 'random', 'block', 'none'",
        ),
        ("model_distribution", ("zero", None), "expected one of 'replicated', 'owner'"),
        ("gradient_aggregation", ("avg", True), "expected one of 'mean', 'sum'"),
        (
            "precision",
            ("float16", "bf16"),
            "expected one of 'float32', 'mixed_bfloat16', 'mixed_float16'",
        ),
        ("jit_compile", ("yes", 1, 0, None), "expected one of 'auto', True, False"),
        ("remat", ("full", 1, 0, None), "expected one of False, True"),
        ("steps_per_loop", (0, -1, 2.0, True, "all", None), f'{WHOLE}, or "auto"'),
        ("accumulation_steps", (0, -2, 1.5, True, "2", None), WHOLE),
        ("keep_checkpoint_max", (0, None), WHOLE),
        ("log_step_count_steps", (0, None, 10.0), WHOLE),
        ("save_summary_steps", (0, None), WHOLE),
        ("save_checkpoints_steps", (0, -1, 2.5, True), f"{WHOLE}, or None"),
        ("eval_every_steps", (0, "epoch"), f"{WHOLE}, or None"),
        (
            "save_checkpoints_secs",
            (0, -1.0, "60", True, float("nan")),
            "expected seconds above 0, or None",
        ),
        (
            "tf_random_seed",
            (-1, 2**31, 1.0, True, "0"),
            "expected an integer from 0 to 2**31 - 1, or None",
        ),
        ("max_staleness", (-1, 1.0, True, "0"), "expected an integer of 0 or more, or None"),
    ],
)
def test_a_value_it_cannot_have_is_named_with_those_it_can(name, values, expected):
    for value in values:
        with pytest.raises(UserError) as caught:
            RunConfig(**{name: value})
        assert str(caught.value) == f"RunConfig.{name}={value!r}: {expected}."


@pytest.mark.parametrize("kind", [dict, ConfigDict])
def test_it_is_made_from_a_configs_fields(kind):
    assert run_config_from(kind({"accumulation_steps": 2})) == RunConfig(accumulation_steps=2)
    assert run_config_from(kind()) == RunConfig()


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(UserError) as caught:
        run_config_from({"accumulation": 2, "seed": 1})
    assert str(caught.value).startswith(
        "unknown RunConfig field 'accumulation', 'seed'; the fields are: data_distribution, "
    )
    assert "tf_random_seed" in str(caught.value)
