"""A model's own train_step and test_step train and evaluate as fit runs them."""

import contextlib
import logging
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.training import own_step_runs
from tests.training.own_step_runs import Classifier, Crash, by_fit, by_tfbig, difference
from tests.training.small_runs import (
    assert_same_variables,
    config,
    dataset,
    saved_variables,
    train,
)
from tfbig.errors import UserError


def assert_same_logs(mine: list[dict], fits: list[dict], tolerance: float = 1e-6) -> None:
    assert [set(logs) for logs in mine] == [set(logs) for logs in fits]
    for one, other in zip(mine, fits, strict=True):
        assert one == pytest.approx(other, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "jit"), [("classifier", False), ("adversaries", False), ("adversaries", True)]
)
def test_one_device_gives_the_weights_and_the_logs_of_fit(kind, jit):
    fitted, fits = by_fit(kind, 152, jit)  # the last batch has 8 of 16
    result, mine = by_tfbig(kind, 152, jit)
    assert difference(fitted, result.model) <= 1e-6
    assert_same_logs(mine, fits)
    names = {"d_loss", "g_loss"} if kind == "adversaries" else {"loss", "hits"}
    assert names <= set(result.history[-1])
    if kind == "classifier":
        assert result.metrics == pytest.approx(
            {"loss": fits[-1]["val_loss"], "hits": fits[-1]["val_hits"]}
        )
        assert result.loss == pytest.approx(fits[-1]["loss"])
    else:
        assert result.loss is None  # train_step returns none of this name
        assert "learning_rate" not in result.history[-1]  # there are two


class Stop(tfbig.callbacks.LoopCallback):
    stop_every = 1

    def on_calls(self, step, logs):
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("kind", own_step_runs.MODELS)
def test_a_run_that_crashed_or_was_stopped_goes_on_bit_for_bit(kind, tmp_path, monkeypatch):
    def run(name, *callbacks):
        # It is made anew in each process.
        monkeypatch.setitem(own_step_runs.outside, "steps", tf.Variable(0))
        return by_tfbig(kind, 152, callbacks=callbacks, model_dir=tmp_path / name)[0]

    straight = run("straight")
    with contextlib.suppress(InterruptedError):
        run("resumed", Crash(8))  # goes on from step 5
    assert run("resumed", Stop()).preempted == "SIGTERM"
    resumed = run("resumed")
    variables = saved_variables(tmp_path / "straight", 20)
    assert_same_variables(variables, saved_variables(tmp_path / "resumed", 20))
    rates = ("steps_per_sec", "examples_per_sec")
    last = [{k: v for k, v in r.history[-1].items() if k not in rates} for r in (straight, resumed)]
    assert last[0] == last[1]
    assert straight.metrics == resumed.metrics
    if kind == "classifier":
        assert variables["attributes/classifier/raw"] == 20
        assert variables["model/variable"] == 40
        assert [v for n, v in variables.items() if n.startswith("attributes/Variable")] == [20]
    else:
        slots = [name for name in variables if name.startswith("optimizer/")]
        assert len(slots) == (2 + 4 * 2) + (2 + 2)


@pytest.mark.slow
def test_one_model_has_its_own_test_step_alone_and_another_its_own_train_step(caplog):
    class Measured(keras.Sequential):
        def test_step(self, data):
            return {"mean_output": tf.reduce_mean(self(data[0]))}

    class Trained(keras.Sequential):
        def train_step(self, data):
            super().train_step(data)
            return {"tenth": 0.1, "loss": self.get_metrics_result()["loss"]}

    def build(kind=keras.Sequential):
        model = kind([keras.Input((8,)), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
        return model

    run = dict(input_fn=dataset, eval_input_fn=dataset, epochs=2)
    plain = train(build, **run)
    parts = train(lambda: build(Measured), **run, config=config(accumulation_steps=2))
    assert difference(plain.model, parts.model) <= 1e-6
    assert set(parts.metrics) == {"mean_output"}
    assert parts.history[-1]["accuracy"] == pytest.approx(plain.history[-1]["accuracy"])
    x = np.concatenate([x for x, _ in dataset().skip(9)])  # what the last batch has given
    assert parts.metrics["mean_output"] == pytest.approx(
        float(tf.reduce_mean(parts.model(x))), rel=1e-5
    )
    trained = train(lambda: build(Trained), **run)
    assert difference(plain.model, trained.model) <= 1e-6
    assert trained.metrics == pytest.approx(plain.metrics)
    assert trained.history[-1]["tenth"] == pytest.approx(0.1)


def test_what_a_step_of_the_models_own_does_not_go_with_is_refused(tmp_path):
    def refused(build=own_step_runs.classifier, kind="classifier", **keywords) -> str:
        with pytest.raises(UserError) as raised:
            train(
                build,
                lambda: own_step_runs.data(kind, 64),
                **{"epochs": 1, "model_dir": tmp_path / "run", **keywords},
            )
        assert not (tmp_path / "run").exists()
        return str(raised.value)

    def returning(value):
        kind = type("Own", (Classifier,), {"train_step": lambda self, data: value(data)})
        model = kind()
        model.compile("adam")
        return model

    assert refused(config=config(accumulation_steps=2)).startswith(
        "Classifier has its own train_step, which is called once for each batch, so "
        "accumulation_steps=2 cannot be kept; leave it 1"
    )
    assert "gradient_aggregation='sum' cannot be kept" in refused(
        config=config(gradient_aggregation="sum")
    )
    assert "leave remat out" in refused(config=config(remat=True))
    assert refused(lambda: returning(lambda data: 0.0)).startswith(
        "Own.train_step returned a float; return a dict of names and numbers, such as"
    )
    assert "'rows' of shape (None,), a number for each example" in refused(
        lambda: returning(lambda data: {"rows": tf.boolean_mask(data[1], data[1] > 0)})
    )
    rates = [keras.callbacks.ReduceLROnPlateau("d_loss")]
    said = refused(own_step_runs.adversaries, "adversaries", callbacks=rates)
    assert said.startswith("ReduceLROnPlateau sets the learning rate of model.optimizer, and Adv")
    assert "is not compiled" in refused(Classifier)


def test_random_numbers_whose_state_no_checkpoint_holds_are_warned_of(caplog):
    class Noisy(Classifier):
        def train_step(self, data):
            return super().train_step((data[0] + tf.random.normal(tf.shape(data[0])), data[1]))

    def build():
        model = Noisy()
        model.compile("adam")
        return model

    with caplog.at_level(logging.WARNING, logger="tfbig"):
        train(build, dataset, max_steps=1)
    assert "Noisy.train_step draws random numbers with RandomStandardNormal" in caplog.text


def test_a_loss_that_is_nan_ends_the_run_by_its_names(tmp_path):
    class Diverging(Classifier):
        def train_step(self, data):
            return {"d_loss": super().train_step(data)["loss"] / 0.0 * 0.0, "fine": 1.0}

    def build():
        model = Diverging()
        model.compile("adam")
        return model

    with pytest.raises(tfbig.errors.TrainingDiverged, match="for the first time at step 1"):
        train(build, dataset, max_steps=3)


@pytest.mark.slow
def test_a_given_model_is_made_again_only_if_its_config_tells_all_of_it():
    class Stepper(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    def build():
        inputs = keras.Input((8,))
        model = Stepper(inputs, keras.layers.Dense(3)(inputs))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    model = build()
    assert train(model, dataset, max_steps=1).model is not model
    model.temperature = 2.0
    assert train(model, dataset, max_steps=1).model is model
    gan = own_step_runs.adversaries()
    result = train(gan, lambda: own_step_runs.data("adversaries", 64), max_steps=1)
    assert result.model is gan


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    files, runs = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("runs")
    return harness.call(own_step_runs.on_two_replicas, files, str(runs), timeout=150)


@pytest.mark.slow
def test_two_replicas_follow_keras_and_go_on_bit_for_bit(two_replicas):
    found = two_replicas
    assert found["difference"] <= 1e-6
    assert_same_logs(found["mine"], found["logs"])
    # An evaluation in mid-epoch leaves the replicas' metrics as they are.
    training = [{k: v for k, v in logs.items() if "val" not in k} for logs in found["logs"]]
    again = [{k: v for k, v in x.items() if "val" not in k} for x in found["classifier"]["logs"]]
    assert again == training
    for kind in own_step_runs.MODELS:
        assert found[kind]["different"] == []
        assert found[kind]["loss"][0] == found[kind]["loss"][1]
    assert "metrics/hits/total@replica_1" in found["classifier"]["names"]
    assert "number of replicas of its own train_step (2, now 1)" in found["elsewhere"]
    few, owner, unseeded = found["refused"]
    assert few.startswith(
        "a batch of input_fn has 1 example(s) for 2 replicas, and a train_step of"
    )
    assert "model_distribution='owner' cuts them into slices; write" in owner
    assert unseeded.startswith("Unseeded.train_step creates a variable in each call")


@pytest.mark.slow
def test_two_workers_have_the_weights_of_two_replicas(tmp_path, two_replicas):
    (tmp_path / "files").mkdir()
    one, two = harness.call_workers(
        own_step_runs.by_two_workers, tmp_path / "files", str(tmp_path / "run"), timeout=150
    )
    assert one["trained"] == two["trained"]
    assert one["trained"] == pytest.approx(two_replicas["trained"], abs=1e-6)
    assert_same_logs(one["logs"], two_replicas["mine"], tolerance=1e-5)
