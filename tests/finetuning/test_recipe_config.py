"""A recipe is read from a config; a schedule in it ends with the run, however that is limited."""

import dataclasses

import keras
import numpy as np
import pytest
from ml_collections import ConfigDict

import tfbig
from tfbig.errors import UserError
from tfbig.finetuning.recipe import recipe_from


def test_every_field_of_a_recipe_is_read():
    fields = {
        "head": "regression",
        "freeze": "backbone",
        "learning_rate": 0.5,
        "rate_decay": 0.25,
        "optimizer": "lion",
        "loss": "mae",
        "metrics": ["mse"],
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "lora_layers": ["dense*"],
    }
    recipe = recipe_from(ConfigDict(fields))
    assert recipe == tfbig.Recipe(**fields)
    known = {field.name for field in dataclasses.fields(tfbig.Recipe)}
    assert known - set(fields) == {"unfreeze"}  # which cannot be used with lora_rank


@pytest.mark.parametrize("unfreeze", [{"500": "*", "900": ["a", "b"]}, {500: "*", 900: ["a", "b"]}])
def test_steps_may_be_text_as_the_keys_of_a_config_are(unfreeze):
    recipe = recipe_from({"freeze": 3, "unfreeze": unfreeze})
    assert recipe.unfreeze == {500: "*", 900: ["a", "b"]}


def test_parts_of_a_config_become_plain_dicts():
    config = ConfigDict({"learning_rate": {"schedule": "cosine", "peak": 0.1}})
    assert type(recipe_from(config).learning_rate) is dict


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (5, "recipe=5: expected a ConfigDict of tfbig.Recipe's fields"),
        ({"heads": 5}, r"unknown Recipe field 'heads' \(did you mean 'head'\?\); the fields are: "),
        ({"zzz": 5}, "unknown Recipe field 'zzz'; the fields are: head, freeze,"),
        ({"freeze": 3, "unfreeze": "*"}, r"Recipe.unfreeze='\*': expected patterns of layers by"),
        ({"freeze": 3, "unfreeze": {"x": "*"}}, "Recipe.unfreeze: 'x' is not a global step"),
        ({"head": 1}, "Recipe.head=1: expected the number of classes"),
    ],
)
def test_a_config_that_is_no_recipe_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        recipe_from(config)


@pytest.mark.parametrize(
    "limits", [{"max_steps": 8}, {"epochs": 2}, {}], ids=["steps", "epochs", "one pass"]
)
def test_a_schedule_falls_to_zero_at_the_last_step(limits):
    data = tfbig.data.ArraySource((np.ones([30, 2], "float32"), np.zeros(30, int))).batch(8)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    recipe = tfbig.Recipe(head=2, learning_rate={"schedule": "linear", "peak": 1.0})
    result = tfbig.fine_tune(model, lambda: data, recipe=recipe, **limits)
    schedule = result.model.optimizer._learning_rate
    assert result.global_step == (8 if limits else 4)
    assert float(schedule(result.global_step)) == pytest.approx(0, abs=1e-6)
    assert float(schedule(result.global_step / 2)) == pytest.approx(0.5)
