"""TPUEstimator: each of its batch sizes is used, and what needs a TPU is refused."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.compat.v1.estimator import tpu
from tfbig.errors import UserError

v1 = tf.compat.v1
MODES = tfbig.ModeKeys
SIZES = {"train_batch_size": 4, "eval_batch_size": 3, "predict_batch_size": 2}


def data(params):
    x = np.arange(24, dtype=np.float32).reshape(12, 2) / 24
    dataset = tf.data.Dataset.from_tensor_slices(({"x": x}, x.sum(1)))
    return dataset.batch(params["batch_size"], drop_remainder=True)


def make(seen, **given):
    def model_fn(features, labels, mode, params):
        seen.append((mode, params["batch_size"], params.get("own")))
        w = v1.get_variable("w", [2, 1], initializer=v1.zeros_initializer())
        y = tf.matmul(features["x"], w)[:, 0]
        if mode == MODES.PREDICT:
            return tpu.TPUEstimatorSpec(mode, predictions={"y": y})
        loss = tf.reduce_mean((y - labels) ** 2)
        optimizer = tpu.CrossShardOptimizer(v1.train.GradientDescentOptimizer(0.1))
        step = v1.train.get_global_step()

        def metric_fn(labels, y):
            return {"mean_y": v1.metrics.mean(y), "mean_label": v1.metrics.mean(labels)}

        def scaffold_fn():
            return v1.train.Scaffold()

        return tpu.TPUEstimatorSpec(
            mode, loss=loss, train_op=optimizer.minimize(loss, step),
            eval_metrics=(metric_fn, [labels, y]), scaffold_fn=scaffold_fn,
        )  # fmt: skip

    config = tpu.RunConfig(tpu_config=tpu.TPUConfig(iterations_per_loop=7), jit_compile=False)
    return tpu.TPUEstimator(
        model_fn, **{"config": config, "params": {"own": 5}, "use_tpu": False, **SIZES, **given}
    )


def test_each_batch_size_reaches_input_fn_and_model_fn():
    seen, asked = [], []
    estimator = make(seen)

    def input_fn(params):
        asked.append(params["batch_size"])
        return data(params)

    estimator.train(lambda params: input_fn(params).repeat(), steps=30)
    result = estimator.evaluate(input_fn)
    assert len(list(estimator.predict(input_fn))) == 12
    assert asked == [4, 3, 2]
    assert set(seen) == {(MODES.TRAIN, 4, 5), (MODES.EVAL, 3, 5), (MODES.PREDICT, 2, 5)}
    assert result["loss"] < 0.5
    assert result["mean_label"] == pytest.approx(23 / 24, abs=1e-6)
    assert estimator.params == {"own": 5}
    assert estimator.config.steps_per_loop == 7
    assert estimator.config.tpu_config.iterations_per_loop == 7


def test_train_and_evaluate_uses_both_sizes():
    seen, asked = [], []
    estimator = make(seen)

    def input_fn(params, mode):
        asked.append((mode, params["batch_size"]))
        return data(params)

    train = tfbig.TrainSpec(lambda params, mode: input_fn(params, mode).repeat(), max_steps=5)
    result, _ = tfbig.train_and_evaluate(estimator, train, tfbig.EvalSpec(input_fn, steps=None))
    assert set(asked) == {(MODES.TRAIN, 4), (MODES.EVAL, 3)}
    assert set(seen) == {(MODES.TRAIN, 4, 5), (MODES.EVAL, 3, 5)}
    assert result["mean_label"] == pytest.approx(23 / 24, abs=1e-6)


def test_without_a_size_params_have_none():
    def model_fn(features, labels, mode, params):
        assert "batch_size" not in params
        return tfbig.EstimatorSpec(mode, predictions=features["x"])

    estimator = tpu.TPUEstimator(model_fn, use_tpu=False, train_batch_size=4)
    x = tf.data.Dataset.from_tensors({"x": [[1.0]]})
    assert next(estimator.predict(lambda: x)).tolist() == [1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make([], use_tpu=True), "is not built yet; write use_tpu=False"),
        (lambda: make([], params={"batch_size": 3}), "is a reserved key"),
        (lambda: make([], train_batch_size=0), "train_batch_size=0"),
        (lambda: make([], batch_axis=[0]), r"TPUEstimator\(batch_axis=…\) is not supported"),
        (lambda: make([]).evaluate(lambda: data({"batch_size": 3})), "input_fn does not include"),
        (lambda: tpu.RunConfig(master="grpc://a:1"), r"RunConfig\(master=…\) is the address"),
        (lambda: tpu.RunConfig(tpu_config=3), "expected a TPUConfig"),
        (lambda: tpu.RunConfig(session_config=3), "session_config"),
        (lambda: tpu.TPUConfig(num_cores_per_replica=2), "divides a model over the cores"),
        (
            lambda: tpu.TPUEstimatorSpec("train", loss=1.0, host_call=(print, [])),
            "write its summaries",
        ),
        (
            lambda: tpu.TPUEstimatorSpec("eval", loss=1.0, eval_metrics=print),
            r"expected \(metric_fn, tensors\)",
        ),
        (
            lambda: tpu.TPUEstimatorSpec("infer", predictions=1, scaffold_fn=lambda: None),
            "scaffold_fn returned None",
        ),
    ],
)
def test_errors_say_what_to_write(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_master_and_cluster_may_be_none_as_scripts_without_a_tpu_pass_them():
    config = tpu.RunConfig(cluster=None, master="", model_dir="runs/x", save_checkpoints_steps=5)
    assert (config.model_dir, config.save_checkpoints_steps) == ("runs/x", 5)
    assert config.replace(tf_random_seed=1).tpu_config == tpu.TPUConfig()
    assert isinstance(config, tfbig.RunConfig)


def test_the_tpu_config_is_a_field():
    config = tpu.RunConfig(tpu_config=tpu.TPUConfig(iterations_per_loop=7, num_shards=8))
    assert "num_shards=8" in repr(config)
    assert config != tpu.RunConfig(tpu_config=tpu.TPUConfig(iterations_per_loop=7))
    other = tpu.TPUConfig(num_shards=2)
    assert config.replace(tpu_config=other).tpu_config == other
    assert dataclasses.replace(config, tf_random_seed=1).tpu_config.num_shards == 8
