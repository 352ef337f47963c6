"""A ShardedEmbedding under parameter servers: where its rows are, and what they become."""

import numpy as np
import pytest

from tests import harness
from tests.cluster import table_runs as runs


@pytest.mark.slow
@pytest.mark.parametrize("clipping", [{}, {"clipnorm": 0.05}, {"global_clipnorm": 0.05}])
def test_workers_that_share_each_batch_train_a_table_as_one_device_does(tmp_path, clipping):
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    alone.mkdir()
    cluster.mkdir()
    optimizer = {"class_name": "Adagrad", "config": {"learning_rate": 0.1, **clipping}}
    expected = harness.call(runs.train, alone, "one_device", optimizer, {}, timeout=100)
    found = harness.call_parameter_server(
        runs.train, cluster, "parameter_server", optimizer, {"max_staleness": 0},
        workers=2, ps=2, timeout=120,
    )["chief"]  # fmt: skip
    np.testing.assert_allclose(found["table"], expected["table"], atol=1e-5)
    np.testing.assert_allclose(found["kernel"], expected["kernel"], atol=1e-5)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.slow
def test_checkpoints_of_workers_that_share_each_batch_have_one_devices_tables(tmp_path):
    folders = [tmp_path / name for name in ("alone", "cluster", "one", "several", "first")]
    for folder in folders:
        folder.mkdir()
    model_dirs = list(map(str, folders[2:4]))
    expected = harness.call(runs.saved, folders[0], "one_device", {}, model_dirs[0], timeout=100)
    fields = {"max_staleness": 0}
    harness.call_parameter_server(  # which the next cluster goes on from
        runs.saved, folders[4], "parameter_server", fields, model_dirs[1], 25,
        workers=1, ps=2, timeout=120,
    )  # fmt: skip
    found = harness.call_parameter_server(
        runs.saved, folders[1], "parameter_server", fields, model_dirs[1],
        workers=2, ps=2, timeout=120,
    )["chief"]  # fmt: skip
    steps = ["ckpt-00000020", "ckpt-00000040", "ckpt-00000060"]
    assert list(expected["checkpoints"]) == steps
    assert list(found["checkpoints"]) == sorted([*steps, "ckpt-00000025"])
    for step in steps:
        assert len(expected["checkpoints"][step]) == 2  # the table and its accumulator
        for mine, theirs in zip(
            found["checkpoints"][step], expected["checkpoints"][step], strict=True
        ):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.slow
def test_one_worker_trains_a_table_on_two_ps_as_one_device_does(tmp_path):
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    alone.mkdir()
    cluster.mkdir()
    expected = harness.call(runs.train, alone, "one_device", "adagrad", {}, timeout=100)
    found = harness.call_parameter_server(
        runs.train, cluster, "parameter_server", "adagrad", {"steps_per_loop": 60},
        workers=1, ps=2, timeout=120,
    )["chief"]  # fmt: skip
    assert (expected["shards"], found["shards"]) == (1, 2)
    np.testing.assert_allclose(found["table"], expected["table"], atol=1e-5)
    np.testing.assert_allclose(found["kernel"], expected["kernel"], atol=1e-5)
    devices = {n: d for n, d in found["where"].items() if "table" in n}
    assert len(devices) == 4  # two shards, each with its accumulator
    assert all("/job:ps/" in device for device in devices.values())
    shards = {n: d for n, d in devices.items() if "accumulator" not in n}
    slots = {n: d for n, d in devices.items() if "accumulator" in n}
    assert list(shards.values()) == list(slots.values())  # beside its rows
    assert len(set(shards.values())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "fields", "message"),
    [
        ("adam", {}, "would go over all rows of the table"),
    ],
)
def test_what_would_make_the_table_dense_is_refused(tmp_path, optimizer, fields, message):
    with pytest.raises(harness.ProcessFailed, match=message):
        harness.call_parameter_server(
            runs.train, tmp_path, "parameter_server", optimizer, fields,
            workers=1, ps=2, timeout=120,
        )  # fmt: skip
