"""Canned estimators on two devices and with accumulation: the numbers of one device."""

import numpy as np
import pytest

from tests.estimator import canned_runs

CASES = [
    ("v1", "dnn_classes"),  # the sum over the batch, with weights
    ("v1", "combined_binary"),  # two optimizers of TensorFlow 1
    ("v1", "weighted_mean"),
    ("v2", "dnn_classes"),
    ("v2", "combined_number"),  # two optimizers of Keras
    ("v2", "nonzero"),
    ("v2", "head_several"),
    ("v2", "head_many"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "name"), CASES)
def test_two_devices_and_accumulation_compute_what_one_device_does(
    side, name, tmp_path, in_process
):
    train = canned_runs.train
    one = in_process(train, side, name, str(tmp_path / "one"), "one_device", 1)
    two = in_process(train, side, name, str(tmp_path / "two"), "mirrored", 2)
    parts = in_process(train, side, name, str(tmp_path / "parts"), "one_device", 1, 2)
    assert len(one["weights"]) > 2
    for other in (two, parts):
        for key, value in one["weights"].items():
            np.testing.assert_allclose(other["weights"][key], value, atol=1e-5, err_msg=key)
        assert other["evaluation"] == pytest.approx(one["evaluation"], abs=1e-5)
        assert other["predictions"] == 256
