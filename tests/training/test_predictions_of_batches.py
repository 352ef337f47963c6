"""Predictions that have no row for each example: whole on one device, an error on several."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tfbig.errors import UserError


def model_fn(features, labels, mode):
    total = tf.reduce_sum(features, axis=0)  # [3]
    return tfbig.EstimatorSpec(mode, predictions={"sum": total, "twice": features * 2})


def input_fn():
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    return tf.data.Dataset.from_tensor_slices(x).batch(2)


def estimator(**where):
    return tfbig.Estimator(model_fn, config=tfbig.RunConfig(jit_compile=False), **where)


def test_a_whole_batch_is_returned_as_it_is():
    found = list(estimator().predict(input_fn, yield_single_examples=False))
    assert [batch["sum"].tolist() for batch in found] == [[3, 5, 7], [15, 17, 19], [12, 13, 14]]
    assert [len(batch["twice"]) for batch in found] == [2, 2, 1]
    with pytest.raises(UserError, match="Batch length of predictions should be same"):
        next(estimator().predict(input_fn))


def on_two_devices() -> str:
    where = {"strategy": "mirrored", "devices": 2}
    rows = [p["twice"].tolist() for p in estimator(**where).predict(input_fn, ["twice"])]
    assert rows == (np.arange(15).reshape(5, 3) * 2).tolist()
    try:
        list(estimator(**where).predict(input_fn, yield_single_examples=False))
    except UserError as error:
        return str(error)


def test_on_two_devices_it_is_an_error(tmp_path):
    said = harness.call(on_two_devices, tmp_path, timeout=100)
    assert "each prediction needs a row for each example" in said
