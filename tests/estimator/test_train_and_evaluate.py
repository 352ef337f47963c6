"""train_and_evaluate: evaluations at steps, exporters after each one, and early stopping."""

import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError
from tfbig.estimator import train_evaluate as running
from tfbig.estimator.eval_events import write_eval_metrics

RECEIVER = tfbig.estimator.export.build_raw_serving_input_receiver_fn(
    {"x": tf.TensorSpec([None, 4], tf.float32)}
)


class Recorder(tfbig.estimator.Exporter):
    """Records its calls, and evaluates the checkpoint that it receives."""

    name = "recorder"

    def __init__(self):
        self.calls = []

    def export(self, estimator, export_path, checkpoint_path, eval_result, is_the_final_export):
        result = estimator.evaluate(iris.eval_input_fn, checkpoint_path=checkpoint_path, name="x")
        assert result == pytest.approx(eval_result, abs=1e-5)
        self.calls.append((eval_result["global_step"], is_the_final_export))
        return export_path


def exports(estimator, name):
    folder = pathlib.Path(estimator.model_dir, "export", name)
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.slow
def test_exporters_run_after_each_evaluation_with_a_checkpoint_of_its_step(tmp_path):
    estimator = iris.estimator(tmp_path, config=iris.config(eval_every_steps=8))
    recorder = Recorder()
    result, exported = tfbig.train_and_evaluate(
        estimator,
        tfbig.TrainSpec(iris.endless_input_fn, max_steps=20),
        tfbig.EvalSpec(
            iris.eval_input_fn,
            steps=None,
            exporters=[
                recorder,
                tfbig.LatestExporter("latest", RECEIVER, exports_to_keep=2),
                tfbig.FinalExporter("final", RECEIVER),
            ],
        ),
    )
    assert recorder.calls == [(8, False), (16, False), (20, True)]
    assert exported[0] == str(tmp_path / "export" / "recorder")
    assert exported[1:] == [str(exports(estimator, n)[-1]) for n in ("latest", "final")]
    assert len(exports(estimator, "latest")) == 2
    assert len(exports(estimator, "final")) == 1
    assert result == pytest.approx(estimator.evaluate(iris.eval_input_fn), abs=1e-5)
    assert set(tfbig.estimator.read_eval_metrics(estimator.eval_dir())) == {8, 16, 20}
    served = tf.saved_model.load(exported[2]).signatures["serving_default"]
    p = np.stack([one["probabilities"] for one in estimator.predict(iris.features_input_fn)])
    np.testing.assert_allclose(served(x=tf.constant(iris.X))["probabilities"], p, atol=1e-6)


@pytest.mark.slow
def test_the_last_step_is_exported_once_if_an_evaluation_is_due_there(tmp_path):
    recorder = Recorder()
    tfbig.train_and_evaluate(
        iris.estimator(tmp_path, config=iris.config(save_checkpoints_steps=5)),
        tfbig.TrainSpec(iris.endless_input_fn, max_steps=10),
        tfbig.EvalSpec(iris.eval_input_fn, name="own", exporters=recorder),
    )
    assert recorder.calls == [(5, False), (10, True)]
    assert set(tfbig.estimator.read_eval_metrics(str(tmp_path / "eval_own"))) == {5, 10}


@pytest.mark.slow
def test_the_best_result_survives_restarts(tmp_path):
    estimator = iris.estimator(tmp_path)
    write_eval_metrics(estimator.eval_dir(), 1, {"loss": 0.5, "accuracy": 0.7})
    write_eval_metrics(estimator.eval_dir(), 2, {"loss": 0.4, "accuracy": 0.6})
    estimator.train(iris.endless_input_fn, steps=3)
    checkpoint = estimator.latest_checkpoint()

    def export(exporter, step, **result):
        where = str(tmp_path / exporter.name)
        return exporter.export(estimator, where, checkpoint, {**result, "global_step": step}, False)

    best = tfbig.BestExporter(serving_input_receiver_fn=RECEIVER, exports_to_keep=1)
    assert export(best, 3, loss=0.45) is None
    first = export(best, 4, loss=0.39)
    assert export(best, 5, loss=0.39) is None
    second = export(best, 6, loss=0.3)
    assert [str(path) for path in (tmp_path / "best_exporter").iterdir()] == [second] != [first]

    by_accuracy = tfbig.BestExporter(
        "accurate",
        RECEIVER,
        compare_fn=lambda best_eval_result, current_eval_result: (
            current_eval_result["accuracy"] > best_eval_result["accuracy"]
        ),
    )
    assert export(by_accuracy, 3, accuracy=0.65) is None
    assert export(by_accuracy, 4, accuracy=0.75)
    with pytest.raises(UserError, match="the current evaluation has no loss"):
        export(tfbig.BestExporter(serving_input_receiver_fn=RECEIVER), 7, accuracy=0.1)


@pytest.mark.slow
def test_seconds_in_eval_spec_are_ignored_with_a_warning(tmp_path, caplog):
    estimator = iris.estimator(tmp_path, config=iris.config(save_checkpoints_steps=4))
    spec = tfbig.EvalSpec(iris.eval_input_fn, start_delay_secs=0, throttle_secs=60)
    with caplog.at_level(logging.WARNING, "tfbig"):
        tfbig.train_and_evaluate(estimator, tfbig.TrainSpec(iris.input_fn), spec)
    assert (
        "EvalSpec(throttle_secs=60) is ignored: evaluations run at steps and not by the clock"
        in caplog.text
    )
    assert set(tfbig.estimator.read_eval_metrics(estimator.eval_dir())) == {4, 5}


def evaluated(estimator, losses):
    for step, loss in losses.items():
        write_eval_metrics(estimator.eval_dir(), step, {"loss": loss})


@pytest.mark.parametrize(
    ("make", "losses", "stops"),
    [
        (
            lambda e: tfbig.stop_if_no_decrease_hook(e, "loss", 20),
            {0: 3, 10: 2, 20: 2, 30: 2.1},
            True,
        ),
        (
            lambda e: tfbig.stop_if_no_decrease_hook(e, "loss", 20),
            {0: 3, 10: 2, 20: 2, 30: 1.9},
            False,
        ),
        (lambda e: tfbig.stop_if_no_decrease_hook(e, "loss", 20), {0: 3, 10: 2, 20: 2}, False),
        (
            lambda e: tfbig.stop_if_no_decrease_hook(e, "loss", 20, min_steps=20),
            {0: 1, 10: 1, 20: 1, 30: 1},
            False,
        ),
        (lambda e: tfbig.stop_if_no_increase_hook(e, "loss", 10), {0: 3, 10: 2}, True),
        (lambda e: tfbig.stop_if_no_increase_hook(e, "loss", 10), {0: 1, 10: 2}, False),
        (lambda e: tfbig.stop_if_higher_hook(e, "loss", 2.5), {0: 2, 10: 3}, True),
        (lambda e: tfbig.stop_if_higher_hook(e, "loss", 2.5), {0: 2, 10: 2.5}, False),
        (lambda e: tfbig.stop_if_lower_hook(e, "loss", 2.5), {0: 3, 10: 2}, True),
        (lambda e: tfbig.stop_if_lower_hook(e, "loss", 1), {0: 3, 10: 2}, False),
    ],
)
def test_early_stopping_considers_all_evaluations(tmp_path, make, losses, stops):
    estimator = iris.estimator(tmp_path)
    hook = make(estimator)
    hook.set_model(type("Model", (), {"stop_training": False})())
    evaluated(estimator, losses)
    hook.on_evaluate(30, {})
    assert hook.model.stop_training is stops


@pytest.mark.slow
def test_a_run_stopped_by_an_evaluation_is_exported(tmp_path):
    estimator = iris.estimator(tmp_path, config=iris.config(eval_every_steps=5))
    recorder = Recorder()
    hook = tfbig.stop_if_lower_hook(estimator, "loss", 0.8)
    result, _ = tfbig.train_and_evaluate(
        estimator,
        tfbig.TrainSpec(iris.endless_input_fn, max_steps=500, hooks=[hook]),
        tfbig.EvalSpec(iris.eval_input_fn, exporters=recorder),
    )
    losses = {
        s: m["loss"] for s, m in tfbig.estimator.read_eval_metrics(estimator.eval_dir()).items()
    }
    last = result["global_step"]
    assert 5 < last < 200
    assert losses[last] < 0.8
    assert all(loss >= 0.8 for step, loss in losses.items() if step < last)
    assert estimator.get_variable_value("global_step") == last
    assert recorder.calls[-1] == (last, True)
    assert [step for step, _ in recorder.calls] == sorted(losses)


def test_an_unknown_metric_is_named(tmp_path):
    estimator = iris.estimator(tmp_path)
    hook = tfbig.stop_if_lower_hook(estimator, "auc", 0.8)
    hook.set_model(type("Model", (), {"stop_training": False})())
    evaluated(estimator, {1: 1.0})
    with pytest.raises(UserError, match="has no metric 'auc'; it has loss"):
        hook.on_evaluate(1, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfbig.TrainSpec(3), "TrainSpec.input_fn"),
        (lambda: tfbig.TrainSpec(iris.input_fn, max_steps=0), "TrainSpec.max_steps=0"),
        (lambda: tfbig.EvalSpec(iris.input_fn, steps=0), "EvalSpec.steps=0"),
        (lambda: tfbig.EvalSpec(iris.input_fn, name=""), "expected a name"),
        (lambda: tfbig.EvalSpec(iris.input_fn, throttle_secs=-1), "throttle_secs=-1"),
        (lambda: tfbig.EvalSpec(iris.input_fn, exporters=[3]), "which is not an exporter"),
        (
            lambda: tfbig.EvalSpec(
                iris.input_fn, exporters=[tfbig.FinalExporter("a", RECEIVER)] * 2
            ),
            "two exporters named 'a'",
        ),
        (lambda: tfbig.FinalExporter("a/b", RECEIVER), "expected the name of a folder"),
        (lambda: tfbig.FinalExporter("a", None), "build_raw_serving_input_receiver_fn"),
        (lambda: tfbig.LatestExporter("a", RECEIVER, as_text=True), "as_text"),
        (lambda: tfbig.LatestExporter("a", RECEIVER, exports_to_keep=0), "exports_to_keep=0"),
        (lambda: tfbig.train_and_evaluate(3, None, None), "`estimator` must have type"),
    ],
)
def test_errors_name_the_invalid_argument(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.slow
def test_an_evaluators_result_is_exported_with_the_checkpoint_that_it_evaluated(tmp_path, caplog):
    estimator = iris.estimator(tmp_path, config=iris.config(save_checkpoints_steps=5))
    estimator.train(iris.endless_input_fn, max_steps=15)
    path = tmp_path / "checkpoints" / "ckpt-00000005"
    found = estimator.evaluate(iris.eval_input_fn, checkpoint_path=path)
    recorder = Recorder()  # evaluates the checkpoint as well
    after = running._AfterEvaluation(
        estimator, tfbig.EvalSpec(iris.eval_input_fn, exporters=recorder)
    )
    after.after_run(15, {})
    with caplog.at_level(logging.INFO, logger="tfbig"):
        after.on_evaluate(5, {name: found[name] for name in ("loss", "accuracy")})
        after.on_evaluate(4, {"loss": 1.0, "accuracy": 0.5})
    assert recorder.calls == [(5, False)]
    assert not after.save_now
    assert "the checkpoint of step 4 was deleted before it could be exported" in caplog.messages
    assert set(tfbig.estimator.read_eval_metrics(estimator.eval_dir())) >= {4, 5}
