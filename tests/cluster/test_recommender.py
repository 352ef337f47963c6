"""The example of a recommender, as its user starts it: a launched cluster with an evaluator."""

import json
import os
import re
import sys

import pytest

from tests import harness
from tests.cluster.conftest import CPP_LINE, marked
from tfbig.finetuning import load_model
from tfbig.training.evaluation.found_elsewhere import Evaluations


@pytest.mark.slow
def test_the_recommender_comes_near_the_best_possible_auc_on_two_ps_with_an_evaluator(tmp_path):
    run = tmp_path / "run"
    out = harness.run_python(
        *("-m", "tfbig", "launch", "--workers=2", "--ps=2", "--evaluator", "--restarts=0", "--"),
        *(sys.executable, "examples/recommender.py", "--rows=500000", f"--model_dir={run}"),
        timeout=400, TF_CONFIG="", TFBIG_TEST_MARK=tmp_path.name, PYTHONPATH=os.getcwd(),
    )  # fmt: skip
    assert marked(tmp_path.name) == []  # no process is left

    told = re.findall(
        r"^\[(.+?)\] step (\d+): held-out AUC ([\d.]+), best possible ([\d.]+)$", out, re.M
    )
    ((task, step, auc, best),) = told
    assert (task, int(step)) == ("chief", 464)
    assert 0.78 < float(best) < 0.79
    assert 0.66 < float(auc) < float(best)
    sizes = re.findall(r"variables: ps 0 ([\d.]+) MB, ps 1 ([\d.]+) MB", out)
    assert [sorted(map(float, two)) for two in sizes] == [[72.2, 72.2]]  # each holds half
    lines = [line.partition("] ")[2] for line in out.splitlines()]
    assert not [line for line in lines if re.match(CPP_LINE, line) and ".cc:" in line], out
    assert "default session config" not in out

    evaluations = Evaluations(str(run)).read()
    steps = [step for step, _ in evaluations]
    assert steps == sorted(set(steps))
    assert steps[-1] == 464
    assert evaluations[-1][1]["auc"] == pytest.approx(float(auc), abs=1e-4)  # the chief's own
    heard = re.findall(r"^\[chief\] evaluation at step (\d+): loss ([\d.]+)", out, re.M)
    for step, loss in heard:
        assert float(loss) == pytest.approx(dict(evaluations)[int(step)]["loss"], abs=1e-4)

    found = json.loads((run / "best" / "best.json").read_text())
    assert found == min(
        ({"step": step, "metrics": metrics} for step, metrics in evaluations),
        key=lambda one: one["metrics"]["loss"],
    )
    model = load_model(run / "best" / "model.keras")
    tables = [w.shape for w in model.weights if "sharded_embedding" in w.path]
    assert sum(rows for rows, _ in tables) > 4_000_000
