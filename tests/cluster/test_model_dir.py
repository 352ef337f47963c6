"""The chief alone writes to its model_dir; other tasks need not see it."""

import re
import shutil
import sys

import pytest

from tests import harness
from tests.cluster import model_dir_runs

pytestmark = pytest.mark.slow  # processes take their time


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict:
    """What a run leaves that was not stopped."""
    folder = tmp_path_factory.mktemp("straight")
    run = str(folder / "run")
    chief, worker = harness.call_workers(model_dir_runs.run, folder, [run, run], 30, timeout=120)
    assert chief == worker | {"began": [0]}
    return chief


def check_ends_as(straight: dict, results: list[dict]) -> None:
    for result in results:
        for name in ("step", "weights", "optimizer"):
            assert result[name] == straight[name], name


def test_a_task_with_a_folder_of_its_own_is_sent_the_checkpoint_and_writes_nothing(
    tmp_path, straight
):
    folders = [tmp_path / "chief", tmp_path / "worker"]
    names = [str(folder) for folder in folders]
    harness.call_workers(model_dir_runs.run, tmp_path / "first", names, 20, timeout=120)
    assert not folders[1].exists()
    folders[1].mkdir()
    (folders[1] / "mine").write_text("x")

    results = harness.call_workers(model_dir_runs.run, tmp_path / "again", names, 30, timeout=120)

    assert results[0]["began"] == [20]
    check_ends_as(straight, results)
    assert [path.name for path in folders[1].iterdir()] == ["mine"]


def test_a_task_that_has_an_older_checkpoint_goes_on_from_the_chiefs(tmp_path, straight):
    names = [str(tmp_path / "chief"), str(tmp_path / "worker")]
    harness.call_workers(model_dir_runs.run, tmp_path / "first", names, 20, timeout=120)
    shutil.copytree(names[0], names[1])
    shutil.rmtree(tmp_path / "worker" / "checkpoints" / "ckpt-00000020")
    before = sorted(path for path in (tmp_path / "worker").rglob("*"))

    results = harness.call_workers(model_dir_runs.run, tmp_path / "again", names, 30, timeout=120)

    assert results[0]["began"] == [20]
    check_ends_as(straight, results)
    assert sorted(path for path in (tmp_path / "worker").rglob("*")) == before


def test_a_shared_folder_may_be_read_only_for_all_but_the_chief(tmp_path, straight):
    names = [str(tmp_path / "run")] * 2
    harness.call_workers(model_dir_runs.run, tmp_path / "first", names, 20, 1, timeout=120)
    results = harness.call_workers(
        model_dir_runs.run, tmp_path / "again", names, 30, 1, timeout=120
    )

    assert results[0]["began"] == [20]
    check_ends_as(straight, results)


def test_the_command_is_launched_trains_well_and_the_chief_reports(tmp_path):
    words = [
        *("-m", "tfbig", "launch", "--workers=2", "--restarts=0", "--"),
        *(sys.executable, "-m", "tfbig", "train", "--config=configs/digits_mlp.py"),
        *("--max_steps=300", "--config.run.jit_compile=False", f"--model_dir={tmp_path / 'run'}"),
    ]
    out = harness.run_python(*words, timeout=110, TF_CONFIG="", TF_NUM_INTRAOP_THREADS="1")

    [accuracy] = re.findall(r"^\[worker 0\] held-out accuracy (\S+)$", out, re.M)
    assert float(accuracy) >= 0.95
    assert len(re.findall(r"exported model  ", out)) == 1
    of_worker = [line for line in out.splitlines() if line.startswith("[worker 1]")]
    own = [line for line in of_worker if not re.search(r"\] [IWE]\d{4} ", line)]
    assert own == ["[worker 1] multi_worker: TF_CONFIG lists 2 workers; this is worker 1"]
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {"checkpoints", "summaries", "export", "logs"}
    assert [path.name for path in (run / "logs").iterdir()] == ["train.log"]
    assert "this is worker 0" in (run / "logs" / "train.log").read_text()
    assert "this is worker 1" not in (run / "logs" / "train.log").read_text()
    assert (run / "export" / "saved_model.pb").exists()
