"""An Estimator on a cluster of two workers: the chief writes, and all compute the same."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris, runs
from tests.harness import free_addresses
from tests.placement.tasks import tasks

RECEIVER = tfbig.estimator.export.build_raw_serving_input_receiver_fn(
    {"x": tf.TensorSpec([None, 4], tf.float32)}
)


class Losses(tf.compat.v1.train.SessionRunHook):
    def __init__(self):
        self.seen = []

    def before_run(self, run_context):
        return tf.compat.v1.train.SessionRunArgs("loss")

    def after_run(self, run_context, run_values):
        self.seen.append(float(run_values.results))


def work(kind: str, folder: str, addresses: list[str], index: int) -> dict:
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )
    model_dir = os.path.join(folder, "run" if index == 0 else "elsewhere")
    outcome = runs.train_and_use(kind, model_dir, "multi_worker", None)
    estimator = iris.estimator(
        model_dir, runs.KINDS[kind], strategy="multi_worker",
        config=iris.config(eval_every_steps=5),
    )  # fmt: skip
    hook = Losses()
    result, exported = tfbig.train_and_evaluate(
        estimator,
        tfbig.TrainSpec(iris.endless_input_fn, max_steps=110, hooks=[hook]),
        tfbig.EvalSpec(iris.eval_input_fn, exporters=tfbig.FinalExporter("final", RECEIVER)),
    )
    return {**outcome, "after": result, "losses": len(hook.seen), "exported": exported}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf1", "keras"])
def test_two_workers_compute_what_one_device_does(kind, tmp_path, in_process):
    one = in_process(runs.train_and_use, kind, str(tmp_path / "one"), "one_device", 1)
    addresses = free_addresses(2)
    with tasks(tmp_path) as start:
        both = [start(work, kind, str(tmp_path), addresses, index) for index in (0, 1)]
        chief, other = (task.result(timeout=200) for task in both)
    for outcome in (chief, other):
        assert outcome["ids"] == one["ids"]
        assert outcome["result"] == pytest.approx(one["result"], abs=1e-5)
    np.testing.assert_allclose(chief["weights"], one["weights"], atol=1e-5)
    assert chief["after"]["global_step"] == 110
    assert other["after"] == pytest.approx(chief["after"])
    assert (chief["losses"], other["losses"]) == (10, 0)
    assert len(chief["exported"]) == 1
    assert os.path.isdir(chief["exported"][0])
    assert not os.path.exists(tmp_path / "elsewhere" / "checkpoints")
