"""`tfbig finetune` as a user runs it: by a recipe, by a function, and what it refuses."""

import keras
import numpy as np
import pytest

from tests.cli.test_train import value_of
from tests.training.small_runs import saved_variables

pytestmark = pytest.mark.slow  # processes take their time

RECIPE = """\
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "pretrained": "base.keras",
        "pretrained_made_by": "mine.pretrain",
        "input_fn": "mine.input_fn",
        "eval_input_fn": "mine.input_fn",
        "recipe": {
            "head": 3,
            "freeze": "backbone",
            "unfreeze": {"8": "body"},
            "learning_rate": {"schedule": "linear", "peak": 0.1},
            "optimizer": "sgd",
        },
        "run": {"tf_random_seed": 3},
        "epochs": 3,
    })
"""

FUNCTION = """\
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "pretrained": "base.keras",
        "model_fn": "mine.with_new_head",
        "input_fn": "mine.input_fn",
        "optimizer": {"name": "sgd", "learning_rate": 0.0},
        "params": {"classes": 3},
        "max_steps": 4,
    })
"""

MINE = """\
import keras
import numpy as np
import tfbig

def input_fn():
    x = np.random.RandomState(0).normal(size=(64, 4)).astype("float32")
    return tfbig.data.ArraySource((x, x[:, :3].argmax(1))).batch(16)

def pretrain(path):
    if path.startswith("gone"):
        raise SystemExit("no data")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="body"),
                              keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(path)

def with_new_head(loaded, params):
    model = keras.Sequential([*loaded.layers[:-1], keras.layers.Dense(params.classes)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
"""


def build() -> keras.Model:
    body = keras.layers.Dense(8, "relu", name="body")
    model = keras.Sequential([keras.Input((4,)), body, keras.layers.Dense(2, name="old")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture
def folder(tmp_path):
    for name, text in (("recipe.py", RECIPE), ("function.py", FUNCTION), ("mine.py", MINE)):
        (tmp_path / name).write_text(text)
    keras.utils.set_random_seed(0)
    build().save(tmp_path / "base.keras")
    return tmp_path


def test_a_recipe_is_carried_out_reported_and_exported(folder, command):
    result = command("finetune", "--config=recipe.py", "--model_dir=run", cold=True)
    assert result.code == 0, result
    assert 0 < value_of(result.out, "held-out loss") < 1.3
    table = [line.split() for line in result.err if line.startswith(("body ", "head "))]
    assert table == ["body 40 0 all from step 8 on".split(), "head 27 27".split()]
    assert "step 12/12  loss" in "\n".join(result.out)  # three passes of four steps
    assert "exported model  run/export" in result.out
    assert (folder / "run/export/saved_model.pb").is_file()
    assert "from the first step on" in (folder / "run/logs/finetune.log").read_text()


def test_flags_change_the_recipe_and_the_pretrained_model(folder, command):
    (folder / "base.keras").rename(folder / "other.keras")
    result = command(
        "finetune",
        "--config=recipe.py",
        "--pretrained=other.keras",
        "--config.recipe.unfreeze={2: 'body'}",
        "--config.recipe.learning_rate=1e-3",
        "--config.recipe.rate_decay=0.5",
        "--max_steps=4",
    )
    assert result.code == 0, result
    body = next(line for line in result.err if line.startswith("body "))
    assert body.split() == "body 40 0 all from step 2 on, at 0.5 of the rate".split()
    assert any(line.startswith("step 4/4 ") for line in result.out)


def test_a_pretrained_model_that_is_missing_is_made_first(folder, command):
    (folder / "base.keras").unlink()
    result = command("finetune", "--config=recipe.py", "--max_steps=2")
    assert result.code == 0, result
    assert "base.keras does not exist; mine.pretrain creates it" in "\n".join(result.err)
    assert (folder / "base.keras").is_file()


def test_what_fails_to_make_the_pretrained_model_is_named(folder, command):
    result = command("finetune", "--config=recipe.py", "--config.pretrained=gone.keras")
    assert result.code == 1
    assert result.err[1:] == [
        "no data",
        "error: pretrained='gone.keras' does not exist, and mine.pretrain, which should create it, "
        "ended with exit code 1; pass another one with --pretrained=PATH.",
    ]


def test_a_function_makes_the_model_and_the_configs_optimizer_trains_it(folder, command):
    result = command("finetune", "--config=function.py", "--model_dir=run")
    assert result.code == 0, result
    before = keras.saving.load_model(folder / "base.keras").get_layer("body").kernel.numpy()
    kept = saved_variables(folder / "run", 4).values()  # nothing is learned at the rate 0
    assert any(np.array_equal(variable, before) for variable in kept)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [
                "--config=recipe.py",
                "--config.pretrained=gone.keras",
                "--config.pretrained_made_by=mine.train",
            ],
            "error: config.pretrained_made_by='mine.train': mine has no function 'train'; its",
        ),
        (
            ["--config=recipe.py", "--pretrained=gone.keras"],
            "error: pretrained='gone.keras': there is no such file, folder or checkpoint.",
        ),
        (
            ["--config=recipe.py", "--config.recipe.haed=5"],
            "error: unknown Recipe field 'haed' (did you mean 'head'?); the fields are: head, fre",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing_behind(folder, command, words, message):
    result = command("finetune", "--model_dir=run", *words)
    assert result.code == 1
    assert len(result.err) == 1, result
    assert result.err[0].startswith(message)
    assert not (folder / "run").exists()


def test_help_lists_the_flags_of_the_verb(command):
    result = command("finetune", "--help")
    assert result.out[0] == "usage: tfbig finetune --config=FILE [flags]"
    listed = {line.split()[0] for line in result.out if line.startswith("  --")}
    assert {"--config", "--pretrained", "--model_dir", "--max_steps", "--epochs"} < listed
