"""What an evaluator has found, as the chief of a cluster with ps tells it."""

import threading
import time

import pytest

from tests import harness
from tests.cluster import parameter_server_runs as runs
from tfbig.training.evaluation.found_elsewhere import Evaluations


@pytest.mark.slow
def test_the_chief_tells_of_an_evaluation_at_the_step_that_was_evaluated(tmp_path):
    run, tasks = tmp_path / "run", tmp_path / "tasks"
    run.mkdir()
    tasks.mkdir()
    Evaluations(str(run)).add(5, {"loss": 0.25, "accuracy": 0.5})  # of a run before this one

    def evaluate() -> None:  # as an evaluator would
        until = time.monotonic() + 90
        while not (run / "checkpoints").exists() and time.monotonic() < until:
            time.sleep(0.05)
        for step in (7, 8):
            Evaluations(str(run)).add(step, {"loss": 0.5, "accuracy": 0.25})

    threading.Thread(target=evaluate, daemon=True).start()
    found = harness.call_parameter_server(
        runs.train, tasks, str(run), 60, {"eval_every_steps": 20, "log_step_count_steps": 20},
        workers=1, timeout=120, TFBIG_EVALUATOR="1",
    )["chief"]  # fmt: skip
    history = found["history"]
    assert [entry["step"] for entry in history] == [7, 8, 20, 40, 60]
    for step, entry in zip((7, 8), history[:2], strict=True):
        assert entry == {"step": step, "val_loss": 0.5, "val_accuracy": 0.25}
    assert ["val_loss" in entry for entry in history[2:]] == [False, False, True]
    out = (tasks / "chief" / "out").read_text()
    for step in (7, 8):
        assert f"evaluation at step {step}: loss 0.5  accuracy 0.25" in out
    assert "evaluation at step 5:" not in out
    # What an evaluator is to evaluate is saved.
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert saved == ["ckpt-00000020", "ckpt-00000040", "ckpt-00000060"]
