"""A config becomes the arguments of fine_tune, or is refused."""

import inspect

import keras
import pytest
from ml_collections import ConfigDict

import tfbig
from tfbig.cli.experiment import finetune_arguments, train_arguments
from tfbig.errors import UserError
from tfbig.models import cnn

GIVEN = {"pretrained": "base.keras", "input_fn": "tfbig.datasets.digits.input_fn"}


def test_fields_become_the_arguments_of_fine_tune():
    recipe = {"head": 5, "freeze": ["conv*"], "unfreeze": {"30": "*"}, "optimizer": {"name": "sgd"}}
    arguments = finetune_arguments(
        ConfigDict(
            {**GIVEN, "recipe": recipe, "base_model_fn": "tfbig.models.cnn.build", "epochs": 2}
        )
    )
    assert arguments["pretrained"] == "base.keras"
    assert arguments["base_model_fn"] is cnn.build
    assert arguments["recipe"] == tfbig.Recipe(
        head=5, freeze=["conv*"], unfreeze={30: "*"}, optimizer={"name": "sgd"}
    )
    assert (arguments["model_fn"], arguments["epochs"]) == (None, 2)
    known = {
        *inspect.signature(tfbig.fine_tune).parameters,
        *inspect.signature(tfbig.train_distributed).parameters,
    }
    assert set(arguments) <= known


def test_an_optimizer_without_a_recipe_replaces_that_of_the_loaded_model():
    optimizer = {"name": "sgd", "learning_rate": 0.25}
    arguments = finetune_arguments(ConfigDict({**GIVEN, "optimizer": optimizer}))
    model = arguments["model_fn"](cnn.build())
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert float(model.optimizer.learning_rate.numpy()) == 0.25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretrained": None}, "config.pretrained=None: expected the path of a saved model"),
        ({"input_fn": None}, "the config has no input_fn"),
        (
            {"recipe": {"head": 5}, "optimizer": {"name": "adam"}},
            "with a recipe write config.recipe.optimizer and config.recipe.learning_rate",
        ),
        (
            {"recipe": {"head": 5}, "model_fn": "tfbig.models.cnn.build"},
            "config.model_fn and config.recipe were both given",
        ),
        ({"recipe": "head"}, "recipe='head': expected a ConfigDict of tfbig.Recipe's fields"),
        ({"base_model_fn": "tfbig.models.cnn.bild"}, "config.base_model_fn='tfbig.models.cnn.bild"),
    ],
)
def test_errors_name_the_invalid_field(fields, message):
    with pytest.raises(UserError) as caught:
        finetune_arguments(ConfigDict({**GIVEN, **fields}))
    assert message in str(caught.value)


def test_train_refuses_what_only_finetune_reads():
    names = {"model_fn": "tfbig.models.cnn.build", "input_fn": GIVEN["input_fn"]}
    with pytest.raises(UserError, match="config.recipe is for tfbig finetune"):
        train_arguments(ConfigDict({**names, "recipe": {"head": 5}}))
