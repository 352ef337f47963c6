"""What docs/from_estimator.md shows is true: its code runs, and its tables are complete."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tests import harness
from tests.compat.test_names import NAMES
from tests.migration.follow import followed
from tests.migration.test_programs import return_dataset
from tfbig.compat.names import LAYERS
from tfbig.migration.migrate import migrate
from tfbig.migration.source import SourceFile

PAGE = (pathlib.Path(__file__).parent.parent / "docs/from_estimator.md").read_text()
SECTIONS = {
    "iris": "The iris DNN",
    "mnist": "The MNIST CNN",
    "bert": "A BERT-style classifier",
    "wide_deep": "Wide and deep on a census table",
    "images": "An image model with hooks and summaries",
    "tagger": "A sequence tagger",
}
LEAST = {  # accuracy
    "iris": 0.93,
    "mnist": 0.9,
    "bert": 0.95,
    "wide_deep": 0.84,
    "images": 0.9,
    "tagger": 0.86,
}


def code(name: str, kind: str) -> str:
    """The code of a section, before or after: "TF 1.15" or "tfbig"."""
    section = PAGE.split(f"## {SECTIONS[name]}\n")[1].split("\n## ")[0]
    (found,) = re.findall(rf"```python[^\n]*\n# {kind}\n(.*?)```", section, re.DOTALL)
    return found


BEFORE = {name: code(name, "TF 1.15") for name in SECTIONS}
AFTER = {name: code(name, "tfbig") for name in SECTIONS}


def pretrained(folder: pathlib.Path) -> np.ndarray:
    """Writes the checkpoint that the BERT-style classifier starts from; returns its embeddings."""
    values = {
        "bert/word_embeddings": np.random.default_rng(0).normal(size=[50, 16]).astype("float32"),
        "bert/pooler/kernel": np.eye(16, dtype="float32"),
        "bert/pooler/bias": np.zeros(16, "float32"),
    }
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in values.items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"))
    return values["bert/word_embeddings"]


def run(code: str, folder: pathlib.Path) -> list[str]:
    return harness.run_forked("-c", code, folder=folder, timeout=240).out.split()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_the_code_after_migrating_trains_and_evaluates(name, least, tmp_path):
    embeddings = pretrained(tmp_path / "runs/pretrained")
    assert float(run(AFTER[name], tmp_path)[-1]) >= least
    if name == "bert":  # one step from the checkpoint, whose rows that no batch has stay
        few = AFTER[name].replace("max_steps=100", "max_steps=1").replace("runs/bert", "runs/one")
        few += "print(*estimator.get_variable_value('bert/word_embeddings')[0])"
        row = [float(word) for word in run(few, tmp_path)[-16:]]
        np.testing.assert_allclose(row, embeddings[0], atol=1e-4)


@pytest.mark.parametrize("name", ["iris", "mnist", "wide_deep"])
def test_the_tool_makes_of_the_code_before_that_after(name):
    found = migrate(SourceFile(f"{name}.py", BEFORE[name].encode()))
    assert found.by_hand == []
    assert found.text == AFTER[name]


def test_the_tool_names_the_one_line_that_is_changed_by_hand():
    found = migrate(SourceFile("bert.py", BEFORE["bert"].encode()))
    assert [f.what for f in found.by_hand] == ["use_tpu=True"]
    assert followed(BEFORE["bert"]) == (AFTER["bert"], 1)


def test_following_the_advice_makes_of_the_image_model_and_the_tagger_what_is_after():
    found = migrate(SourceFile("images.py", BEFORE["images"].encode()))
    assert [f.what for f in found.by_hand] == ["dataset.make_one_shot_iterator"]
    assert return_dataset(found.text) == AFTER["images"]
    assert followed(BEFORE["tagger"]) == (AFTER["tagger"], 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_tf_estimator_is_in_the_table(name):
    last = name.split(".")[-1]
    table = PAGE.split("## Old name, new name")[1].split("| elsewhere in TF1")[0]
    assert re.search(rf"`(?:\w+\.)?{last}`", table)


def test_every_layer_is_in_the_table():
    assert all(re.search(rf"`(?:tf\.layers\.)?{name}`", PAGE) for name in LAYERS)
