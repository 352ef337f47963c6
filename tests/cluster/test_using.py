"""evaluate and predict on several workers tell what they tell on one device."""

import pathlib

import numpy as np
import pytest

from tests import harness
from tests.cluster import using_runs
from tests.cluster.numbers import difference

pytestmark = pytest.mark.slow  # clusters take their time

# Two workers take no other path than three do, and cut batches in fewer ways.
PLACES = [pytest.param(2, marks=pytest.mark.long), 3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    harness.call(using_runs.save_models, folder, str(folder), timeout=120, TF_CONFIG="")
    return str(folder)


@pytest.fixture(scope="module")
def one_device(saved, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("one")
    return harness.call(using_runs.use, folder, saved, timeout=200, TF_CONFIG="")


@pytest.fixture(scope="module", params=PLACES)
def workers(request, saved, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("workers")
    return harness.call_workers(using_runs.use, folder, saved, workers=request.param, timeout=200)


@pytest.mark.parametrize("kind", ["dataset", "source"])
def test_figures_are_those_of_one_device_on_every_worker(kind, workers, one_device):
    expected = one_device[f"evaluate {kind}"]

    assert {"accuracy", "loss", "confusion_matrix"} <= expected.keys()
    assert np.sum(expected["confusion_matrix"]) == using_runs.ROWS
    for told in workers:
        assert told[f"evaluate {kind}"] == workers[0][f"evaluate {kind}"]
    figures = workers[0][f"evaluate {kind}"]
    assert figures["confusion_matrix"] == expected["confusion_matrix"]
    assert figures["accuracy"] == expected["accuracy"]
    assert difference(figures, expected) <= 1e-6


@pytest.mark.parametrize("kind", ["predict dataset", "predict source", "several"])
def test_predictions_come_in_their_order_on_every_worker(kind, workers, one_device):
    assert len(one_device[kind]) == using_runs.ROWS
    for told in workers:
        assert told[kind] == workers[0][kind]
        assert len(told[kind]) == using_runs.ROWS
    assert difference(workers[0][kind], one_device[kind]) <= 1e-6


def test_a_batch_of_one_example_is_predicted_once(workers, one_device):
    for told in workers:
        assert len(told["few"]) == 1
        assert difference(told["few"], one_device["few"]) <= 1e-6


def test_outputs_have_the_dtypes_that_the_model_gives(workers, one_device):
    assert one_device["dtypes"] == {
        "scores": "float32",
        "class": "int32",
        "long": "int64",
        "sure": "bool",
        "half": "bfloat16",
        "table": "float32",
    }
    for told in workers:
        assert told["dtypes"] == one_device["dtypes"]


@pytest.fixture(scope="module")
def on_bad(tmp_path_factory) -> tuple[dict, list[dict], pathlib.Path]:
    """What one device and two workers make of a file with damaged records."""
    folder = tmp_path_factory.mktemp("bad")
    path = folder / "data.tfrecord"
    using_runs.write_records(str(path))
    (folder / "one").mkdir()
    one = harness.call(
        using_runs.train_on_bad, folder / "one", str(path), timeout=200, TF_CONFIG=""
    )
    two = harness.call_workers(using_runs.train_on_bad, folder / "two", str(path), timeout=200)
    return one, two, folder


@pytest.mark.parametrize("model", ["plain", "normalized"])
def test_records_left_out_by_one_worker_change_nothing(model, on_bad):
    one, two, folder = on_bad
    expected = one[model]

    assert two[0][model] == two[1][model]
    assert expected["step"] == 12
    for name in ("step", "weights", "metrics", "loss", "history", "figures"):
        assert difference(two[0][model][name], expected[name]) <= 1e-5, name
    listed = [file.read_text().count("\n") for file in folder.glob("data.tfrecord-*")]
    assert max(listed) == len(using_runs.BAD)
