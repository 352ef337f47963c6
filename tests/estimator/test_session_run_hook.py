"""A user's own SessionRunHook: which values it receives, and what is refused."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tests.estimator.test_hooks import plain_losses, run, with_fields
from tfbig.errors import UserError

v1 = tf.compat.v1.train


class Recorder(v1.SessionRunHook):
    """Fetches the given tensors and records each call."""

    def __init__(self, fetches=None, stop_at=None):
        self.fetches, self.calls, self._stop_at = fetches, [], stop_at

    def begin(self):
        self.step = v1.get_global_step()
        self.calls.append("begin")

    def before_run(self, run_context):
        assert run_context.original_args.fetches is None
        fetches = self.fetches if self.fetches is not None else {"step": self.step}
        return v1.SessionRunArgs(fetches)

    def after_run(self, run_context, run_values):
        self.calls.append(run_values.results)
        if len(self.calls) - 1 == self._stop_at:
            run_context.request_stop()

    def end(self, session):
        self.calls.append("end")


def test_it_is_called_at_every_step(tmp_path, caplog):
    hook = Recorder({"loss": "loss", "more": ["softmax_tensor:0", "global_step"]})
    with caplog.at_level(logging.INFO, "tfbig"):
        run(tmp_path, hook, steps=4)
    assert "the hook Recorder makes the loop run one step per call" in caplog.text
    assert hook.calls[0] == "begin"
    assert hook.calls[-1] == "end"
    steps = hook.calls[1:-1]
    assert [s["loss"] for s in steps] == pytest.approx(plain_losses(tmp_path, 4), abs=1e-6)
    assert [int(s["more"][1]) for s in steps] == [0, 1, 2, 3]
    assert [s["more"][0].shape for s in steps] == [(32, 3)] * 4


def test_the_global_steps_tensor_and_a_stop(tmp_path):
    hook = Recorder(stop_at=3)
    estimator = run(tmp_path, hook, steps=50)
    assert [int(s["step"]) for s in hook.calls[1:-1]] == [0, 1, 2]
    assert estimator.get_variable_value("global_step") == 3


def test_the_global_step_may_be_asked_for_in_before_run(tmp_path):
    seen = []

    class Steps(v1.SessionRunHook):
        def before_run(self, run_context):
            return v1.SessionRunArgs({"step": v1.get_global_step(), "loss": "loss"})

        def after_run(self, run_context, run_values):
            seen.append(int(run_values.results["step"]))

    iris.estimator(tmp_path).train(iris.endless_input_fn, hooks=[Steps()], steps=3)
    assert seen == [0, 1, 2]


def test_in_the_spec_it_fetches_the_specs_tensors(tmp_path):
    hooks = []

    def training_hooks(spec):
        hooks.append(Recorder([spec.loss, spec.predictions["class_ids"]]))
        return hooks[-1:]

    run(tmp_path, model_fn=with_fields(training_hooks=training_hooks), steps=3)
    steps = hooks[0].calls[1:-1]
    assert [loss for loss, _ in steps] == pytest.approx(plain_losses(tmp_path, 3), abs=1e-6)
    assert all(ids.shape == (32,) and ids.dtype == np.int64 for _, ids in steps)


@pytest.mark.slow
def test_evaluate_and_predict_call_it_for_each_batch(tmp_path):
    estimator = run(tmp_path)
    hook = Recorder(["loss", "class_ids"])
    result = estimator.evaluate(iris.eval_input_fn, hooks=[hook])
    losses = [loss for loss, _ in hook.calls[1:-1]]
    assert np.average(losses, weights=[40, 40, 40, 30]) == pytest.approx(result["loss"], abs=1e-6)
    hook = Recorder("class_ids")
    ids = [one["class_ids"] for one in estimator.predict(iris.features_input_fn, hooks=[hook])]
    assert np.concatenate(hook.calls[1:-1]).tolist() == ids


@pytest.mark.slow
def test_under_mirrored_it_receives_the_same_values(tmp_path, in_process):
    one = in_process(recorded, str(tmp_path / "one"), "one_device", 1)
    two = in_process(recorded, str(tmp_path / "two"), "mirrored", 2)
    np.testing.assert_allclose(two, one, atol=1e-5)


def recorded(folder, strategy, devices):
    hook = Recorder({"loss": "loss", "p": "softmax_tensor"})
    estimator = iris.estimator(folder, strategy=strategy, devices=devices)
    estimator.train(iris.endless_input_fn, hooks=[hook], steps=6)
    return [[float(s["loss"]), *s["p"].ravel()[:5].tolist()] for s in hook.calls[1:-1]]


class NeedsSession(v1.SessionRunHook):
    def after_run(self, run_context, run_values):
        run_context.session.run("loss")


class CreatesSession(v1.SessionRunHook):
    def after_create_session(self, session, coord):
        pass


class Feeds(v1.SessionRunHook):
    def before_run(self, run_context):
        return v1.SessionRunArgs(None, feed_dict={"x": 1})


class LooksInGraph(v1.SessionRunHook):
    def begin(self):
        tf.compat.v1.get_default_graph().get_tensor_by_name("softmax_tensor:0")


class EndsInSession(v1.SessionRunHook):
    def end(self, session):
        session.run("x")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (NeedsSession(), "NeedsSession uses session.run, but TensorFlow 2 has no session"),
        (CreatesSession(), "CreatesSession has an after_create_session"),
        (Feeds(), "feeds values in before_run"),
        (LooksInGraph(), "return its name from before_run instead"),
        (EndsInSession(), "EndsInSession uses session.run"),
    ],
)
def test_errors_name_what_to_use_instead_of_a_session(tmp_path, hook, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, hook, steps=2)


def test_a_keras_builder_has_no_tensors_to_fetch():
    from tests.training import small_runs

    class Fetches(tfbig.callbacks.LoopCallback):
        def on_call_begin(self, step, fetch):
            fetch("loss")

    with pytest.raises(UserError, match="hooks with tensors need an estimator-style model_fn"):
        small_runs.train(max_steps=1, callbacks=[Fetches()])
