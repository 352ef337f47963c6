"""A config's dotted names and optimizer become arguments of train_distributed."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

import tfbig
from tfbig.cli.experiment import resolve, train_arguments
from tfbig.errors import UserError
from tfbig.models import mlp

NAMES = {"model_fn": "tfbig.models.mlp.build", "input_fn": "tfbig.datasets.digits.input_fn"}


def hundred_examples(mode, params):
    del mode, params
    return tfbig.data.ArraySource(np.zeros([100, 2], np.float32)).batch(8)


def model_fn(features, labels, mode):
    raise NotImplementedError


def learning_rate_of(config: dict, step: int, data=hundred_examples) -> float:
    """The learning rate at a step of a run of an MLP with this config."""
    arguments = train_arguments(ConfigDict({**NAMES, **config, "input_fn": data}))
    arguments["input_fn"](mode="train", params=None)
    return float(arguments["model_fn"](None).optimizer._learning_rate(step))


def test_dotted_names_become_functions():
    arguments = train_arguments(ConfigDict({**NAMES, "params": {"dropout": 0.5}, "epochs": 3}))
    assert arguments["model_fn"] is mlp.build
    assert arguments["input_fn"] is tfbig.datasets.digits.input_fn
    assert arguments["params"].dropout == 0.5
    assert (arguments["max_steps"], arguments["epochs"]) == (None, 3)
    assert arguments["config"] == tfbig.RunConfig()
    assert set(arguments) <= set(inspect.signature(tfbig.train_distributed).parameters)


def test_the_configs_optimizer_replaces_that_of_the_model():
    optimizer = {"name": "momentum", "learning_rate": 0.25, "clipnorm": 1.0}
    build = train_arguments(ConfigDict({**NAMES, "optimizer": optimizer}))["model_fn"]
    model = build({"hidden_units": (4,)})
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert float(model.optimizer.learning_rate.numpy()) == 0.25
    assert (model.optimizer.momentum, model.optimizer.clipnorm) == (0.9, 1.0)
    plain = mlp.build({"hidden_units": (4,)})
    x, y = np.ones([5, 8, 8, 1], np.float32), np.arange(5)
    model.set_weights(plain.get_weights())
    assert model.evaluate(x, y, verbose=0) == plain.evaluate(x, y, verbose=0)  # loss and metrics
    assert build({"hidden_units": (4,)}).optimizer is not model.optimizer


def test_a_schedule_ends_with_the_run():
    rate = {"schedule": "linear", "peak": 1.0}
    optimizer = {"optimizer": {"name": "sgd", "learning_rate": rate}}
    assert learning_rate_of({**optimizer, "max_steps": 10}, 5) == pytest.approx(0.5)
    # 100 examples in batches of 8 are 13 steps.
    assert learning_rate_of({**optimizer, "epochs": 2}, 13) == pytest.approx(0.5)
    assert learning_rate_of(optimizer, 13) == pytest.approx(0.0)

    def dataset(mode, params):
        return tf.data.Dataset.range(100).batch(10)

    assert learning_rate_of({**optimizer, "epochs": 2}, 10, dataset) == pytest.approx(0.5)


def test_a_schedule_of_data_without_a_length_asks_for_one():
    def generated(mode, params):
        return tf.data.Dataset.range(100).filter(lambda x: x > 3).batch(10)

    optimizer = {"name": "sgd", "learning_rate": {"schedule": "linear", "peak": 1.0}}
    with pytest.raises(UserError, match="write decay_steps=<steps>, or max_steps"):
        learning_rate_of({"optimizer": optimizer, "epochs": 2}, 0, generated)


def test_data_becomes_a_part_of_params():
    config = ConfigDict({**NAMES, "params": {"dropout": 0.5}, "data": {"batch_size": 7}})
    params = train_arguments(config)["params"]
    assert params.to_dict() == {"dropout": 0.5, "data": {"batch_size": 7}}
    config.params.data = {"batch_size": 9}
    with pytest.raises(UserError, match="both data and params.data"):
        train_arguments(config)


def test_run_becomes_a_run_config():
    config = ConfigDict({**NAMES, "run": {"accumulation_steps": 2, "precision": "mixed_bfloat16"}})
    assert train_arguments(config)["config"] == tfbig.RunConfig(
        accumulation_steps=2, precision="mixed_bfloat16"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_fn": None}, "the config has no model_fn"),
        ({"model_fn": "build"}, "config.model_fn='build': expected a dotted name such as"),
        ({"model_fn": "tfbig.model.build"}, "there is no module 'tfbig.model'"),
        (
            {"input_fn": "tfbig.models.mlp.bild"},
            "has no function 'bild'; its functions are: build.",
        ),
        ({"eval_input_fn": "no_such.f"}, "config.eval_input_fn='no_such.f': there is no module"),
        ({"run": {"presicion": "float32"}}, "unknown RunConfig field 'presicion'"),
        ({"run": 3}, "config.run=3: expected a ConfigDict of RunConfig's fields"),
        ({"model_fn": model_fn, "optimizer": {"name": "adam"}}, "leave config.optimizer out"),
    ],
)
def test_errors_name_the_invalid_field(fields, message):
    with pytest.raises(UserError) as caught:
        train_arguments(ConfigDict({**NAMES, **fields}))
    assert message in str(caught.value)


def test_a_module_that_fails_to_import_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        resolve("model_fn", "half_there.build")
