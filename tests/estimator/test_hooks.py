"""Hooks of tfbig and TensorFlow 1, passed to train, evaluate and predict, and in the spec."""

import dataclasses
import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig import estimator as est
from tfbig.errors import TrainingDiverged, UserError
from tfbig.estimator.hooks.session_run_hook import SessionRunHookAdapter

v1 = tf.compat.v1.train


def with_fields(**fields):
    """iris.model_fn with more fields in its spec; a field may be a function of the spec."""

    def model_fn(features, labels, mode, params):
        spec = iris.model_fn(features, labels, mode, params)
        found = {name: field(spec) if callable(field) else field for name, field in fields.items()}
        return dataclasses.replace(spec, **found)

    return model_fn


def run(tmp_path, *hooks, steps=10, model_fn=iris.model_fn, **fields):
    config = iris.config(**fields)
    estimator = iris.estimator(tmp_path, model_fn, config=config)
    return estimator.train(iris.endless_input_fn, hooks=list(hooks), steps=steps)


def steps_of(estimator):
    state = tf.train.get_checkpoint_state(estimator.model_dir)
    return [int(re.search(r"ckpt-(\d+)", p)[1]) for p in state.all_model_checkpoint_paths]


def plain_losses(tmp_path, steps):
    """The loss of each step, as the loop reports it."""
    losses = []

    class Losses(tfbig.callbacks.LoopCallback):
        stop_every = 1

        def on_calls(self, step, logs):
            losses.append(logs["loss"])

    run(tmp_path / "plain", Losses(), steps=steps)
    return losses


@pytest.mark.parametrize("kind", [est.StopAtStepHook, v1.StopAtStepHook])
def test_stop_at_step_ends_the_run(tmp_path, kind):
    estimator = run(tmp_path, kind(num_steps=4), steps=None)
    assert estimator.get_variable_value("global_step") == 4
    estimator.train(iris.endless_input_fn, hooks=[kind(last_step=6)])
    assert estimator.get_variable_value("global_step") == 6
    estimator.train(iris.endless_input_fn, hooks=[kind(last_step=6)])
    assert estimator.get_variable_value("global_step") == 6


def test_stop_at_step_works_in_the_spec(tmp_path):
    model_fn = with_fields(training_hooks=[est.StopAtStepHook(last_step=3)])
    assert run(tmp_path, model_fn=model_fn, steps=None).get_variable_value("global_step") == 3
    result = tfbig.train_distributed(
        model_fn,
        iris.endless_input_fn,
        strategy="one_device",
        config=iris.config(),
        params=iris.PARAMS,
    )
    assert result.global_step == 3


class Fetches(v1.SessionRunHook):
    def before_run(self, run_context):
        return v1.SessionRunArgs(["probabilities", "loss"])


class Listener(est.CheckpointSaverListener):
    def __init__(self, stop=None):
        self.calls, self._stop = [], stop

    def begin(self):
        self.calls.append("begin")

    def before_save(self, session, global_step_value):
        self.calls.append(("before", global_step_value))

    def after_save(self, session, global_step_value):
        self.calls.append(("after", global_step_value))
        return global_step_value == self._stop

    def end(self, session, global_step_value):
        self.calls.append(("end", global_step_value))


@pytest.mark.parametrize("kind", [est.CheckpointSaverHook, v1.CheckpointSaverHook])
def test_checkpoint_saver_and_its_listeners(tmp_path, kind):
    listener = Listener()
    hook = kind(str(tmp_path), save_steps=4, listeners=[listener])
    assert steps_of(run(tmp_path, hook)) == [4, 8, 10]
    saved = [(when, step) for step in (4, 8) for when in ("before", "after")]
    last = [("end", 10), ("before", 10), ("after", 10)]
    assert listener.calls == ["begin", *saved, *last]


def test_a_listener_ends_the_run(tmp_path):
    estimator = iris.estimator(tmp_path, config=iris.config(save_checkpoints_steps=3))
    estimator.train(iris.endless_input_fn, steps=50, saving_listeners=[Listener(stop=6)])
    assert estimator.get_variable_value("global_step") == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", [est.LoggingTensorHook, v1.LoggingTensorHook])
def test_logging_tensor_shows_the_values_of_its_step(tmp_path, kind, caplog):
    seen = []
    hook = kind(
        {"step": "global_step", "loss": "loss", "p": "softmax_tensor"},
        every_n_iter=4,
        formatter=lambda values: seen.append(values) or "mine",
    )
    with caplog.at_level(logging.INFO, "tfbig"):
        run(tmp_path, hook)
    losses = plain_losses(tmp_path, 10)
    assert [int(values["step"]) for values in seen] == [0, 4, 8]
    assert [v["loss"] for v in seen] == pytest.approx([losses[i] for i in (0, 4, 8)], abs=1e-6)
    assert {v["p"].shape for v in seen} == {(32, 3), (22, 3)}
    assert caplog.text.count("mine") == 3


def with_state(features, labels, mode, params):
    """Has moving statistics and a random stream, which a fetch must not change."""
    x = keras.layers.Dense(params["units"], name="hidden")(features["x"])
    x = keras.layers.BatchNormalization()(x, training=mode == "train")
    x = keras.layers.Dropout(0.5)(x, training=mode == "train")
    logits = keras.layers.Dense(3, name="logits")(x)
    optimizer = {"optimizer": keras.optimizers.SGD(0.1)}
    return iris.spec_of(mode, logits, labels, lambda loss: optimizer)


def counting(features, labels, mode, params):
    """Has a variable that changes whenever the probabilities are computed."""
    count = iris.v1.get_variable(
        "count", [], initializer=iris.v1.zeros_initializer(), trainable=False
    )
    with tf.control_dependencies([count.assign_add(1.0)]):
        logits = tf.identity(iris.dense(features["x"], 3, "logits"))
    return iris.spec_of(mode, logits, labels, iris.adam)


@pytest.mark.slow
@pytest.mark.parametrize("model_fn", [iris.model_fn, with_state, counting])
def test_fetching_tensors_changes_nothing(tmp_path, model_fn):
    hook = est.LoggingTensorHook(["loss"], every_n_iter=3, at_end=True)
    adapted = SessionRunHookAdapter(Fetches())
    fetched = run(tmp_path / "fetched", hook, adapted, model_fn=model_fn)
    plain = run(tmp_path / "plain", model_fn=model_fn)
    np.testing.assert_equal(iris.values(fetched.model_dir), iris.values(plain.model_dir))


@pytest.mark.slow
def test_hooks_of_the_spec_see_its_tensors(tmp_path, caplog):
    def hooks(spec):
        p = tf.reduce_mean(spec.predictions["probabilities"], name="mean_p")
        tensors = {"loss": spec.loss, "p": p}
        return [v1.LoggingTensorHook(tensors, every_n_iter=5), v1.NanTensorHook(spec.loss)]

    with caplog.at_level(logging.INFO, "tfbig"):
        run(tmp_path, model_fn=with_fields(training_chief_hooks=hooks))
    lines = re.findall(r"loss = ([\d.]+), p = ([\d.]+)", caplog.text)
    losses = plain_losses(tmp_path, 10)
    assert [float(loss) for loss, _ in lines] == pytest.approx([losses[0], losses[5]], abs=1e-5)
    assert [float(p) for _, p in lines] == pytest.approx([1 / 3, 1 / 3], abs=1e-5)


def test_a_step_counter_logs_and_writes_rates(tmp_path, caplog):
    now = iter(range(0, 1000, 2))
    hook = est.StepCounterHook(4, output_dir=str(tmp_path / "rates"), clock=lambda: next(now))
    with caplog.at_level(logging.INFO, "tfbig"):
        run(tmp_path, hook)
    assert len(re.findall(r"global_step/sec: [\d.]+", caplog.text)) == 2
    assert set(est.read_eval_metrics(str(tmp_path / "rates"))) == {4, 8}


def nan_model_fn(features, labels, mode, params):
    logits = iris.dense(features["x"], 3, "logits")
    broken = tf.where(v1.get_global_step() >= 5, float("nan"), 1.0)
    return iris.spec_of(mode, logits * broken, labels, iris.adam)


def test_nan_ends_the_run_with_or_without_an_error(tmp_path):
    with pytest.raises(TrainingDiverged, match="the loss is NaN"):
        run(tmp_path / "a", v1.NanTensorHook("loss"), model_fn=nan_model_fn)
    hook = est.NanTensorHook("loss", fail_on_nan_loss=False)
    estimator = run(tmp_path / "b", hook, model_fn=nan_model_fn, steps=500)
    assert 5 < estimator.get_variable_value("global_step") < 500
    with pytest.raises(UserError, match="NanTensorHook watches 'logits'"):
        run(tmp_path / "c", est.NanTensorHook("logits"))


@pytest.mark.slow
def test_summaries_of_tensorflow_1_are_written(tmp_path):
    folder = str(tmp_path / "summaries_of_hook")

    def hooks(spec):
        summary = tf.compat.v1.summary.scalar("twice", 2 * spec.loss)
        return [est.SummarySaverHook(4, output_dir=folder, summary_op=summary)]

    run(tmp_path, model_fn=with_fields(training_hooks=hooks))
    losses = plain_losses(tmp_path, 10)
    found = est.read_eval_metrics(folder)
    assert {s: next(iter(m.values())) for s, m in found.items()} == pytest.approx(
        {step: 2 * losses[step - 1] for step in (1, 5, 9)}, abs=1e-5
    )


def with_summaries(fn):
    """A model_fn that also writes summaries, one of them of a metric's update."""

    def model_fn(features, labels, mode, params):
        spec = fn(features, labels, mode, params)
        if mode == tfbig.ModeKeys.TRAIN:
            tf.compat.v1.summary.scalar("twice", 2 * spec.loss)
            accuracy = tf.compat.v1.metrics.accuracy(labels, spec.predictions["class_ids"])
            tf.compat.v1.summary.scalar("right", accuracy[1])
        return spec

    return model_fn


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [iris.model_fn, iris.keras_model_fn])
def test_summaries_of_model_fn_are_written_when_they_are_due_and_change_nothing(tmp_path, dialect):
    without = run(tmp_path / "without", model_fn=dialect)
    estimator = run(tmp_path / "run", model_fn=with_summaries(dialect), save_summary_steps=4)
    found = est.read_eval_metrics(str(tmp_path / "run" / "summaries"))
    written = {step: m for step, m in found.items() if "twice" in m}
    assert list(written) == [1, 5, 9]
    assert all(0 <= m["right"] <= 1 for m in written.values())
    np.testing.assert_equal(iris.values(estimator.model_dir), iris.values(without.model_dir))
    if dialect is iris.model_fn:
        losses = plain_losses(tmp_path, 10)
        for step, m in written.items():
            assert m["twice"] == pytest.approx(2 * losses[step - 1], abs=1e-5)


def test_final_ops_are_computed_at_the_end(tmp_path):
    hook = est.FinalOpsHook({"p": "softmax_tensor", "step": "global_step"})
    run(tmp_path, hook)
    assert hook.final_ops_values["p"].shape[1] == 3


@pytest.mark.slow
def test_evaluate_and_predict_have_hooks_too(tmp_path, caplog):
    shown = lambda spec: [est.LoggingTensorHook(["loss"], every_n_iter=2)]  # noqa: E731
    final = est.FinalOpsHook("softmax_tensor")
    estimator = run(tmp_path, model_fn=with_fields(evaluation_hooks=shown))
    with caplog.at_level(logging.INFO, "tfbig"):
        result = estimator.evaluate(iris.eval_input_fn, hooks=[final])
    assert len(re.findall(r"[^,] loss = [\d.]+( \(|\n)", caplog.text)) == 2  # of four batches
    assert final.final_ops_values.shape == (30, 3)
    assert result == pytest.approx(iris.estimator(tmp_path).evaluate(iris.eval_input_fn))
    final = est.FinalOpsHook("softmax_tensor")
    predictions = list(estimator.predict(iris.features_input_fn, hooks=[final]))
    last = np.stack([one["probabilities"] for one in predictions[-30:]])
    np.testing.assert_allclose(final.final_ops_values, last, atol=1e-6)
    with pytest.raises(UserError, match="belong to training"):
        estimator.evaluate(iris.eval_input_fn, hooks=[est.StopAtStepHook(num_steps=1)])


@pytest.mark.slow
def test_a_scaffold_is_supported_unless_it_needs_a_session(tmp_path):
    called = []
    scaffold = v1.Scaffold(init_fn=lambda scaffold, session: called.append(1))
    estimator = run(tmp_path, model_fn=with_fields(scaffold=scaffold))
    estimator.train(iris.endless_input_fn, steps=1)
    assert called == [1]

    def saver(spec):
        return v1.Scaffold(saver=v1.Saver([tf.Variable(0.0, name="x")], max_to_keep=1))

    def refused(spec):
        return v1.Scaffold(init_fn=lambda scaffold, session: session.run("x"))

    with pytest.raises(UserError, match="init_fn uses session.run, but TensorFlow 2 has no"):
        run(tmp_path / "b", model_fn=with_fields(scaffold=refused))
    with pytest.raises(UserError, match="local_init_op is not supported"):
        scaffold = lambda spec: v1.Scaffold(local_init_op=tf.no_op())  # noqa: E731
        run(tmp_path / "c", model_fn=with_fields(scaffold=scaffold))


def test_a_savers_max_to_keep_is_used(tmp_path):
    with tf.Graph().as_default():
        saver = v1.Saver([tf.compat.v1.get_variable("x", [])], max_to_keep=2)
    model_fn = with_fields(scaffold=v1.Scaffold(saver=saver))
    estimator = run(tmp_path, model_fn=model_fn, save_checkpoints_steps=2)
    assert steps_of(estimator) == [8, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: est.StopAtStepHook(), "exactly one of num_steps and last_step"),
        (lambda: est.StopAtStepHook(1, 2), "exactly one of num_steps and last_step"),
        (lambda: est.CheckpointSaverHook("a"), "exactly one of save_secs and save_steps"),
        (
            lambda: est.CheckpointSaverHook("a", save_steps=1, saver=3),
            r"saver=…\) is not supp",
        ),
        (lambda: est.LoggingTensorHook(["a"]), "exactly one of every_n_iter and every_n_secs"),
        (lambda: est.LoggingTensorHook([], 1), "at least one tensor"),
        (lambda: est.StepCounterHook(0), "every_n_steps=0"),
        (lambda: est.StepCounterHook(summary_writer=3), "pass output_dir"),
        (lambda: est.SummarySaverHook(1, output_dir="a"), "pass output_dir and summary_op"),
        (lambda: est.FinalOpsHook("a", {"b": 1}), "TensorFlow 2 has no feeds"),
    ],
)
def test_errors_name_invalid_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_errors_name_what_hooks_cannot_do(tmp_path):
    feeds = v1.FeedFnHook(lambda: {})
    elsewhere = est.CheckpointSaverHook(str(tmp_path / "other"), save_steps=1)
    cases = [
        (feeds, "FeedFnHook is not supported; use input_fn"),
        (elsewhere, "checkpoints are written to the model_dir"),
        (est.LoggingTensorHook(["nothing"], 1), "a hook fetches 'nothing', and there is none. Th"),
    ]
    for hook, message in cases:
        with pytest.raises(UserError, match=message):
            run(tmp_path, hook)
