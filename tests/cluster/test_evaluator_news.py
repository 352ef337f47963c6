"""What an evaluator has found, as the chief of a cluster with ps tells it."""

from tests import harness
from tests.cluster import parameter_server_runs as runs
from tfbig.training.evaluations import Evaluations


def test_the_chief_tells_of_an_evaluation_at_the_step_that_was_evaluated(tmp_path):
    run, tasks = tmp_path / "run", tmp_path / "tasks"
    run.mkdir()
    tasks.mkdir()
    Evaluations(str(run)).add(7, {"loss": 0.5, "accuracy": 0.25})  # as an evaluator would
    found = harness.call_parameter_server(
        runs.train, tasks, str(run), 60, {"eval_every_steps": 20, "log_step_count_steps": 20},
        workers=1, timeout=120, TFBIG_EVALUATOR="1",
    )["chief"]  # fmt: skip
    history = found["history"]
    assert [entry["step"] for entry in history] == [7, 20, 40, 60]
    assert history[0] == {"step": 7, "val_loss": 0.5, "val_accuracy": 0.25}
    assert ["val_loss" in entry for entry in history[1:]] == [False, False, True]
    assert "evaluation at step 7: loss 0.5  accuracy 0.25" in (tasks / "chief" / "out").read_text()
