"""TF1's layers in tfbig's training: TF1's names, and the same numbers on one device and several."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests import harness
from tests.compat import training_runs


def train(tmp_path, *arguments):
    folder = tmp_path / "-".join(str(a) for a in arguments[:3])
    folder.mkdir()
    found = harness.call(training_runs.train_in, folder, str(folder), *arguments, timeout=240)
    return {name: np.array(value) for name, value in found.items()}


@pytest.mark.slow
def test_layers_with_dropout_have_the_same_weights_on_one_device_and_on_two(tmp_path):
    one, two = (train(tmp_path, "model_fn", 30, devices) for devices in (1, 2))
    weights = {f"{n}/{w}" for n in ("conv2d", "dense", "logits") for w in ("kernel", "bias")}
    assert set(one) == set(two) == weights | {"global_step"}
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("updates", "devices"), [(True, 1), (True, 2), (False, 1)])
def test_moving_averages_move_where_update_ops_are_run(tmp_path, updates, devices):
    found = train(tmp_path, "normalized_model_fn", 4, devices, {"updates": updates})
    images = (load_digits().data[:200] / 16).astype("float32").reshape(4, 50, 64)
    mean = np.zeros(64)
    for batch in images if updates else []:
        mean = mean * 0.8 + batch.mean(0) * 0.2
    np.testing.assert_allclose(found["batch_normalization/moving_mean"], mean, atol=1e-6)


def test_a_constraint_holds_after_each_step(tmp_path):
    kernel = train(tmp_path, "constrained_model_fn", 5, 1)["dense/kernel"]
    assert np.abs(kernel).max() == np.float32(0.05)
