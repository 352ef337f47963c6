"""The canned estimators compute what those of TF 2.15 computed, step by step.

data/make_canned_records.py recorded it; data/canned_works.py is what both sides run.
"""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator.data import canned_works as works
from tests.estimator.test_against_215 import group, write_checkpoint
from tfbig.estimator.canned import tf1

DATA = pathlib.Path(__file__).with_name("data") / "canned.npz"
V1 = {
    "Adagrad": tf.compat.v1.train.AdagradOptimizer,
    "Adam": tf.compat.v1.train.AdamOptimizer,
    "SGD": tf.compat.v1.train.GradientDescentOptimizer,
}
V2 = {name: getattr(keras.optimizers, name) for name in ("Adagrad", "Adam", "SGD")}
SLOT = re.compile(r"training|/Ada|/Ftrl|beta._power")
SIDES = {"v1": (tf1, V1), "v2": (tfbig.estimator, V2)}
CASES = [("v1", name) for name in works.WORKS] + [
    ("v2", name) for name in works.WORKS | works.HEADS
]


@functools.cache
def records() -> dict[str, np.ndarray]:
    with np.load(DATA) as file:
        return dict(file)


def close(found, expected, rtol=1e-4, atol=1e-5, **say):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, **say)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "name"), CASES)
def test_losses_weights_metrics_and_predictions_are_those_of_tf_estimator(side, name, tmp_path):
    module, optimizers = SIDES[side]
    recorded = group(records(), f"{side}/{name}")
    work = (works.WORKS | works.HEADS)[name]
    weights = {k: v for k, v in group(recorded, "initial").items() if not SLOT.search(k)}
    settings = {
        "model_dir": str(tmp_path / "run"),
        "config": tfbig.RunConfig(log_step_count_steps=1, jit_compile=False),
        "strategy": "one_device",
    }
    make = works.optimizer_maker(optimizers, summed=side == "v1")
    if name.startswith("baseline"):  # starts at zeros, and its classes take no warm start
        estimator = work.make(module, make, settings)
    else:
        initial = write_checkpoint(tmp_path / "initial", weights)
        settings["warm_start_from"] = initial
        estimator = work.make(module, make, settings)
    losses = []
    estimator.train(works.train_input_fn(work), steps=works.STEPS, hooks=[Losses(losses)])
    close(losses, recorded["losses"])
    reader = tf.train.load_checkpoint(estimator.latest_checkpoint())
    for key, value in group(recorded, "final").items():
        if not SLOT.search(key):  # their names differ
            close(reader.get_tensor(key), value, err_msg=key)

    expected = group(recorded, "evaluation")
    evaluation = estimator.evaluate(works.eval_input_fn(work))
    assert set(evaluation) == set(expected)
    for key, value in expected.items():
        close(evaluation[key], value, err_msg=key)

    predicted = list(estimator.predict(works.predict_input_fn(work)))
    expected = group(recorded, "predictions")
    names = {k: k if isinstance(k, str) else ".".join(k) for k in predicted[0]}
    assert set(names.values()) == set(expected)
    for key, name in names.items():
        found = np.stack([p[key] for p in predicted])
        if found.dtype == object:
            assert found.astype(np.bytes_).tolist() == expected[name].tolist()
        else:
            assert found.dtype == expected[name].dtype
            close(found, expected[name], err_msg=name)


class Losses(tfbig.callbacks.LoopCallback):
    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def on_log(self, step, logs):
        self.losses.append(logs["loss"])
