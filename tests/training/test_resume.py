"""A run that is killed and started again ends with the bits of one that was never stopped."""

import signal

import pytest

from tests import harness
from tests.training import resumed_runs

pytestmark = pytest.mark.slow  # processes take their time

ONE_DEVICE = [kind for kind in resumed_runs.KINDS if kind not in resumed_runs.ON_TWO_REPLICAS]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("files")
    results = harness.call(resumed_runs.run_all, files, ONE_DEVICE, str(folder), timeout=360)
    files = tmp_path_factory.mktemp("mirrored")
    kinds = list(resumed_runs.ON_TWO_REPLICAS)
    results |= harness.call(resumed_runs.run_all, files, kinds, str(folder), timeout=180)
    return results


def killed(tmp_path, kind, at, number=signal.SIGKILL) -> str:
    files = tmp_path / f"killed-at-{at}"
    files.mkdir()
    with pytest.raises(harness.ProcessFailed) as failure:
        harness.call(
            resumed_runs.run, files, kind, str(tmp_path / "run"), at, int(number), timeout=120
        )
    return str(failure.value)


def finished(tmp_path, kind, *arguments) -> dict:
    files = tmp_path / f"finished-{len(list(tmp_path.iterdir()))}"
    files.mkdir()
    return harness.call(
        resumed_runs.run, files, kind, str(tmp_path / "run"), *arguments, timeout=120
    )


# What a second kill can break is how a resumed run counts: its position in the data and the state
# of callbacks. The other kinds read their data in one of these ways, and are killed once.
KILLED_TWICE = ("source", "dataset", "passes", "tf1_repeated", "callbacks")


@pytest.mark.parametrize("kind", resumed_runs.KINDS)
def test_kills_leave_no_trace_in_weights_optimizer_and_metrics(kind, tmp_path, uninterrupted):
    for at in (23, 41) if kind in KILLED_TWICE else (41,):
        assert "exit code -9" in killed(tmp_path, kind, at)
    resumed = finished(tmp_path, kind)
    straight = uninterrupted[kind]
    assert resumed["step"] == straight["step"] >= 60
    assert any("resuming from" in line and "ckpt-00000040" in line for line in resumed["log"])
    assert resumed["weights"].keys() == straight["weights"].keys()
    assert len(resumed["weights"]) >= 8
    assert resumed["weights"] == straight["weights"]  # every bit
    assert resumed["model"] == straight["model"]
    assert resumed["metrics"] == straight["metrics"]


def test_a_source_is_not_replayed_and_a_generator_says_that_it_is(tmp_path, uninterrupted):
    killed(tmp_path, "source", 51)
    resumed = finished(tmp_path, "source")
    assert resumed["weights"] == uninterrupted["source"]["weights"]
    assert resumed["read_examples"] <= 12 * 64  # ten steps, and a row or two for the shapes
    assert uninterrupted["source"]["read_examples"] >= 57 * 64
    log = "\n".join(uninterrupted["generator"]["log"])
    assert "position cannot be saved" in log
    assert "stateful" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_finds_and_the_next_run_goes_on(number, tmp_path, uninterrupted):
    stopped = finished(tmp_path, "source", 23, int(number))
    assert stopped["preempted"] == number.name
    assert 23 <= stopped["step"] <= 30
    said = f"{number.name} ended the training at step {stopped['step']}; train with the same"
    assert any(line.startswith(said) for line in stopped["log"])
    resumed = finished(tmp_path, "source")
    assert any(f"ckpt-{stopped['step']:08d}" in line for line in resumed["log"])
    assert resumed["weights"] == uninterrupted["source"]["weights"]


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, uninterrupted):
    first = finished(tmp_path, "source")
    again = finished(tmp_path, "source")
    assert any("step 60 is reached already" in line for line in again["log"])
    assert again["step"] == 60
    assert again["weights"] == first["weights"] == uninterrupted["source"]["weights"]


# Without Keras's dropout, which draws for each part.
@pytest.mark.parametrize("kind", ["model_fn", "augmented"])
def test_a_run_goes_on_with_the_same_batches_on_another_number_of_replicas(
    kind, tmp_path, uninterrupted
):
    killed(tmp_path, kind, 41)
    files = tmp_path / "mirrored"
    files.mkdir()
    resumed = harness.call(on_two_replicas, files, kind, str(tmp_path / "run"), timeout=120)
    straight = uninterrupted[kind]["weights"]
    differences = [
        abs(a - b)
        for name, values in straight.items()
        for a, b in zip(values, resumed["weights"][name], strict=True)
    ]
    assert max(differences) <= 1e-5


def on_two_replicas(kind: str, model_dir: str) -> dict:
    resumed_runs.KINDS[kind] |= dict(strategy="mirrored", devices=2)
    return resumed_runs.run(kind, model_dir)
