"""A file with layers of tfbig is loaded in a process that has not used them before."""

import pathlib
import re

import keras
import numpy as np
import pytest

import tfbig
from tests import harness


@pytest.mark.slow
def test_every_class_that_tfbig_registers_is_known_once_load_model_is():
    root = pathlib.Path(tfbig.__file__).parent
    text = "\n".join(path.read_text() for path in root.rglob("*.py"))
    registered = re.findall(r"^@keras\.saving\.register.*\n(?:class|def) (\w+)", text, re.M)
    known = harness.run_python(
        "-c",
        "from tfbig.finetuning.loading import load_model\n"
        "import keras\n"
        "print(*(name.removeprefix('tfbig>') for name in keras.saving.get_custom_objects()))\n",
        timeout=120,
    ).split()
    assert "ShardedEmbedding" in registered
    assert set(registered) <= set(known)


def test_a_model_with_a_sharded_embedding_is_evaluated_in_a_new_process(tmp_path):
    ids = keras.Input([3], dtype="int64")
    rows = tfbig.layers.ShardedEmbedding(50, 4, shards=2, combiner="sum")(ids)
    model = keras.Model(ids, keras.layers.Dense(1)(rows))
    model.compile("adagrad", "mse")
    model.save(tmp_path / "model.keras")
    inputs = np.arange(48).reshape(16, 3)
    expected = float(model.evaluate(inputs, np.ones([16, 1]), verbose=0))
    found = harness.run_forked(
        "-c",
        "import sys, tfbig, numpy as np\n"
        "data = np.arange(48).reshape(16, 3), np.ones([16, 1])\n"
        "source = tfbig.data.ArraySource(data).batch(8)\n"
        "print(tfbig.evaluate(sys.argv[1], lambda: source)['loss'])\n",
        str(tmp_path / "model.keras"),
        folder=tmp_path,
    ).out
    assert abs(float(found) - expected) < 1e-6
