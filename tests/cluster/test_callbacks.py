"""Callbacks run on the chief, and what they do is done on all workers."""

import pytest

from tests import harness
from tests.cluster import callback_runs
from tests.cluster.numbers import difference

pytestmark = pytest.mark.slow  # clusters take their time


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> list[dict]:
    """What the kinds have left on each of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    return harness.call_workers(callback_runs.run_all, folder, str(folder / "written"), timeout=200)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("one")
    return harness.call(
        callback_runs.run_all, folder, str(folder / "written"), timeout=200, TF_CONFIG=""
    )


@pytest.mark.parametrize("kind", callback_runs.KINDS)
def test_the_workers_end_alike_and_as_one_device_does(kind, workers, one_device):
    chief, worker, expected = workers[0][kind], workers[1][kind], one_device[kind]

    for name in ("step", "loss", "metrics", "history", "weights", "optimizer"):
        assert chief[name] == worker[name], name  # every bit
    assert chief["step"] == expected["step"]
    for name in ("loss", "metrics", "weights", "optimizer"):
        assert difference(chief[name], expected[name]) <= 1e-5, name
    rates = [{k: v for k, v in at.items() if "per_sec" not in k} for at in chief["history"]]
    told = [{k: v for k, v in at.items() if "per_sec" not in k} for at in expected["history"]]
    assert difference(rates, told) <= 1e-5


def test_the_callbacks_of_these_runs_have_done_something(workers):
    chief = workers[0]
    steps = {kind: chief[kind]["step"] for kind in callback_runs.KINDS}
    assert steps == {
        "early_stopping": 18,  # the second and third epochs were no better than the first
        "plateau": 36,
        "schedule": 36,
        "weights": 36,
        "only the chief's": 36,
        "stops": 15,  # a log point, so the end of a call
        "files": 36,
    }
    rates = {kind: chief[kind]["history"][-1].get("learning_rate") for kind in chief}
    assert rates["plateau"] < 0.01
    assert rates["schedule"] == pytest.approx(0.05 / 6)
    assert chief["weights"]["weights"] == chief["only the chief's"]["weights"]
    assert difference(chief["weights"]["weights"], chief["schedule"]["weights"]) > 0.1


def test_files_are_written_by_the_chief_alone(workers, one_device):
    files = workers[0]["files"]["files"]

    assert {"log.csv", "best.keras"} <= set(files)
    assert any(name.startswith("board/") for name in files)
    assert any(name.startswith("run/summaries/") for name in files)
    assert any(name.startswith("run/checkpoints/ckpt-00000036/") for name in files)
    assert workers[1]["files"]["files"] == []
    assert len(files) == len(one_device["files"]["files"])


def test_a_loss_that_is_nan_ends_all_workers(cluster):
    for result in cluster.start(callback_runs.diverging, "rate").results(60):
        assert result["error"] == "TrainingDiverged"
        assert "the loss is NaN or infinite, for the first time at step" in result["text"]


def test_a_nan_in_the_share_of_one_worker_is_named_by_all(cluster):
    chief, worker = cluster.start(callback_runs.diverging, "data").results(60)

    assert chief == worker
    assert chief["error"] == "TrainingDiverged"
    assert "features has NaN in example 13 of the batch" in chief["text"]
    assert "for the first time at step 2" in chief["text"]


def test_to_look_for_the_operation_that_made_a_nan_is_refused(cluster):
    chief, worker = cluster.start(callback_runs.diverging, "find_op").results(60)

    assert chief["error"] == "NotBuiltError"
    assert "find_op" in chief["text"]
    assert worker["error"] == "PeerLost"
    assert chief["text"][:200] in worker["text"]


def test_a_callback_of_the_chief_that_takes_a_nan_as_the_end_ends_all_workers(cluster):
    chief, worker = cluster.start(callback_runs.diverging, "tolerated").results(60)

    assert chief == worker
    assert chief["step"] < 30
