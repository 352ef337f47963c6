"""What docs/from_estimator.md shows is true: its code runs, and its tables are complete."""

import difflib
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tests import harness
from tests.compat.test_names import NAMES
from tfbig.compat.names import LAYERS
from tfbig.migration.migrate import migrate
from tfbig.migration.source import SourceFile

PAGE = (pathlib.Path(__file__).parent.parent / "docs/from_estimator.md").read_text()
BLOCKS = re.findall(r"```python[^\n]*\n# (TF 1.15|tfbig)\n(.*?)```", PAGE, re.S)
BEFORE = dict(zip(("iris", "mnist", "bert"), (c for k, c in BLOCKS if k != "tfbig"), strict=True))
AFTER = dict(zip(("iris", "mnist", "bert"), (c for k, c in BLOCKS if k == "tfbig"), strict=True))


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
@pytest.mark.parametrize(("name", "least"), [("iris", 0.93), ("mnist", 0.9), ("bert", 0.95)])
def test_the_code_after_migrating_trains_and_evaluates(name, least, tmp_path):
    embeddings = pretrained(tmp_path / "runs/pretrained")
    assert float(run(AFTER[name], tmp_path)[-1]) >= least
    if name == "bert":  # one step from the checkpoint, whose rows that no batch has stay
        few = AFTER[name].replace("max_steps=100", "max_steps=1").replace("runs/bert", "runs/one")
        few += "print(*estimator.get_variable_value('bert/word_embeddings')[0])"
        row = [float(word) for word in run(few, tmp_path)[-16:]]
        np.testing.assert_allclose(row, embeddings[0], atol=1e-4)


@pytest.mark.parametrize("name", ["iris", "mnist"])
def test_the_tool_makes_of_the_code_before_that_after(name):
    found = migrate(SourceFile(f"{name}.py", BEFORE[name].encode()))
    assert found.by_hand == []
    assert found.text == AFTER[name]


def test_the_tool_names_the_lines_that_are_changed_by_hand():
    found = migrate(SourceFile("bert.py", BEFORE["bert"].encode()))
    assert {f.what for f in found.by_hand} == {
        "tf.contrib.tpu.TPUEstimatorSpec", "tf.contrib.tpu.TPUEstimator",
        "tf.contrib.tpu.RunConfig", "tf.contrib.tpu.CrossShardOptimizer",
    }  # fmt: skip
    same = difflib.SequenceMatcher(None, found.text.splitlines(), AFTER["bert"].splitlines())
    assert same.ratio() > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_tf_estimator_is_in_the_table(name):
    last = name.split(".")[-1]
    table = PAGE.split("## Old name, new name")[1].split("| elsewhere in TF1")[0]
    assert re.search(rf"`(?:\w+\.)?{last}`", table)


def test_every_layer_is_in_the_table():
    assert all(re.search(rf"`(?:tf\.layers\.)?{name}`", PAGE) for name in LAYERS)
