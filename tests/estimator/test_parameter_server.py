"""An Estimator on parameter servers: the chief trains and saves, all tasks use the result."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.estimator import iris, runs

RECEIVER = tfbig.estimator.export.build_raw_serving_input_receiver_fn(
    {"x": tf.TensorSpec([None, 4], tf.float32)}
)


class Steps(tf.compat.v1.train.SessionRunHook):
    def __init__(self):
        self.seen = 0

    def after_run(self, run_context, run_values):
        self.seen += 1


def work(kind: str, model_dir: str, strategy: str, staleness: int | None) -> dict:
    """Trains, evaluates and predicts, and then trains with evaluations and exports."""
    config = iris.config(eval_every_steps=5, max_staleness=staleness)
    estimator = iris.estimator(model_dir, runs.KINDS[kind], strategy=strategy, config=config)
    estimator.train(iris.endless_input_fn, steps=100)
    outcome = runs.use(kind, model_dir, strategy, None)
    hook = Steps()
    result, exported = tfbig.train_and_evaluate(
        estimator,
        tfbig.TrainSpec(iris.endless_input_fn, max_steps=110, hooks=[hook]),
        tfbig.EvalSpec(iris.eval_input_fn, exporters=tfbig.FinalExporter("final", RECEIVER)),
    )
    return {**outcome, "after": result, "hook": hook.seen, "exported": exported}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf1", "keras"])
def test_workers_that_share_each_batch_match_one_device(kind, tmp_path):
    folders = [tmp_path / name for name in ("single", "cluster")]
    for folder in folders:
        folder.mkdir()
    single, cluster = (str(folder / "run") for folder in folders)
    one = harness.call(work, folders[0], kind, single, "one_device", None, timeout=150)
    tasks = harness.call_parameter_server(
        work, folders[1], kind, cluster, "parameter_server", 0, workers=2, ps=1, timeout=250
    )
    for outcome in tasks.values():  # each task evaluates and predicts from the checkpoint
        assert outcome["ids"] == one["ids"]
        assert outcome["result"] == pytest.approx(one["result"], abs=1e-5)
        assert outcome["after"] == pytest.approx(one["after"], abs=1e-5)
        assert outcome["after"]["global_step"] == 110
        np.testing.assert_allclose(outcome["weights"], one["weights"], atol=1e-5)
    chief = tasks.pop("chief")
    assert chief["hook"] > 0
    assert not any(outcome["hook"] for outcome in tasks.values())
    assert len(chief["exported"]) == 1
    assert os.path.isdir(chief["exported"][0])
    assert not any(outcome["exported"] for outcome in tasks.values())
    assert len(os.listdir(os.path.join(cluster, "export", "final"))) == 1
    events = os.listdir(os.path.join(cluster, "eval"))
    assert len(events) == len(os.listdir(os.path.join(single, "eval")))  # only the chief writes


@pytest.mark.slow
def test_the_example_runs_with_an_evaluator(tmp_path):
    script = pathlib.Path(__file__).parents[2] / "examples" / "estimator_train_and_evaluate.py"
    words = ["launch", "--workers=2", "--ps=1", "--evaluator", "--restarts=0", "--"]
    words += [sys.executable, str(script), f"--model_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "tfbig", *words], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    chief = [line for line in done.stdout.splitlines() if line.startswith("[chief]")]
    reached = re.fullmatch(r"\[chief\] step 400: held-out accuracy (0\.9[4-9]\d*|1\.0*)", chief[-1])
    assert reached, done.stdout
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == [f"ckpt-00000{step}" for step in (100, 200, 300, 400)]  # to be evaluated
    last = json.loads(lines[-1])  # the evaluator's
    assert last["step"] == 400
    assert last["accuracy"] == pytest.approx(float(reached[1]), abs=1e-4)
    assert len(list((tmp_path / "run" / "export" / "final").iterdir())) == 1
