"""A run goes on with another number of workers, or on one machine, with the same batches."""

import pathlib
import shutil

import pytest

from tests import harness
from tests.cluster import resumed_runs
from tests.cluster.conftest import Cluster
from tests.cluster.numbers import difference

pytestmark = pytest.mark.slow  # clusters take their time

KIND = "augmented"  # a mixture, augmentation, dropout by the example's place


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict:
    """What an uninterrupted run on two workers leaves."""
    folder = tmp_path_factory.mktemp("straight")
    return harness.call_workers(resumed_runs.run, folder, KIND, str(folder / "run"), timeout=150)[0]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> pathlib.Path:
    """The model_dir of a run on two workers that was stopped in the middle."""
    folder = tmp_path_factory.mktemp("stopped")
    for left in harness.call_workers(
        resumed_runs.run, folder, KIND, str(folder / "run"), "auto", None, 23, timeout=150
    ):
        assert left["preempted"] == "SIGTERM"
        assert 23 <= left["step"] < 40
    return folder / "run"


def goes_on(
    cluster: Cluster, model_dir: pathlib.Path, *arguments, workers: int = 1, kind: str = KIND
) -> dict:
    """Goes on with a run on so many workers; with none, in a process that knows no cluster."""
    arguments = (kind, str(model_dir), *arguments)
    if workers:
        cluster.start(resumed_runs.run, *arguments, workers=workers)
    else:
        cluster.add(0, resumed_runs.run, arguments, TF_CONFIG="")
    results = cluster.results(90)
    assert all(result == results[0] for result in results)
    return results[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_of_two_workers_goes_on_with_another_number(
    workers, cluster, tmp_path, stopped, straight
):
    shutil.copytree(stopped, tmp_path / "run")
    check_same(goes_on(cluster, tmp_path / "run", workers=workers), straight)


@pytest.mark.parametrize(("strategy", "devices"), [("one_device", None), ("mirrored", 2)])
def test_a_run_of_two_workers_goes_on_on_one_machine(
    strategy, devices, cluster, tmp_path, stopped, straight
):
    shutil.copytree(stopped, tmp_path / "run")
    check_same(goes_on(cluster, tmp_path / "run", strategy, devices, workers=0), straight)


def test_a_run_of_one_device_goes_on_with_two_workers(cluster, tmp_path, straight):
    left = goes_on(cluster, tmp_path / "run", "one_device", None, 23, workers=0)
    assert left["preempted"] == "SIGTERM"
    assert 23 <= left["step"] < 40
    check_same(goes_on(cluster, tmp_path / "run", workers=2), straight)


FULL = f"{KIND}:owner_full"


@pytest.fixture(scope="module")
def stopped_in_slices(tmp_path_factory) -> pathlib.Path:
    """The model_dir of a run on two workers with weights in slices, stopped in the middle."""
    folder = tmp_path_factory.mktemp("in_slices")
    harness.call_workers(
        resumed_runs.run, folder, FULL, str(folder / "run"), "auto", None, 23, timeout=150
    )
    return folder / "run"


@pytest.mark.parametrize(
    ("kind", "workers", "arguments"),
    [(FULL, 3, ()), (KIND, 2, ()), (KIND, 0, ("one_device",)), (FULL, 0, ("mirrored", 4))],
    ids=["three", "replicated", "one_device", "mirrored"],
)
def test_weights_in_slices_go_on_elsewhere(
    kind, workers, arguments, cluster, tmp_path, stopped_in_slices, straight
):
    shutil.copytree(stopped_in_slices, tmp_path / "run")
    left = goes_on(cluster, tmp_path / "run", *arguments, workers=workers, kind=kind)
    check_same(left, straight)


def test_a_replicated_run_goes_on_with_weights_in_slices(cluster, tmp_path, stopped, straight):
    shutil.copytree(stopped, tmp_path / "run")
    check_same(goes_on(cluster, tmp_path / "run", workers=2, kind=FULL), straight)


def check_same(result: dict, straight: dict) -> None:
    assert result["step"] == straight["step"] == 60
    assert result["preempted"] is None
    assert difference(result["model"], straight["model"]) <= 1e-5
    assert difference(result["saved"], straight["saved"]) <= 1e-5
