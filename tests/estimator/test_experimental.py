"""tf.estimator.experimental and the functions beside the canned estimators."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError

e = tfbig.estimator
experimental = e.experimental
X = {"x": np.array([[1.0], [2.0]], np.float32)}


def test_a_hook_evaluates_during_training(tmp_path):
    estimator = iris.estimator(tmp_path)
    hook = experimental.InMemoryEvaluatorHook(
        estimator, iris.eval_input_fn, name="now", every_n_iter=4
    )
    estimator.train(iris.endless_input_fn, hooks=[hook], steps=10)
    written = e.read_eval_metrics(estimator.eval_dir("now"))
    assert list(written) == [4, 8, 10]
    expected = estimator.evaluate(iris.eval_input_fn)
    assert written[10]["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)
    assert written[10]["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_the_hook_belongs_to_one_estimator_and_one_evaluation(tmp_path):
    one, other = iris.estimator(tmp_path / "a"), iris.estimator(tmp_path / "b")
    make = experimental.InMemoryEvaluatorHook
    hook = make(other, iris.eval_input_fn)
    with pytest.raises(UserError, match="has another Estimator"):
        one.train(iris.endless_input_fn, hooks=[hook], steps=1)
    with pytest.raises(UserError, match="a run has one evaluation"):
        one.train(iris.endless_input_fn, hooks=[make(one, iris.eval_input_fn)] * 2, steps=1)
    with pytest.raises(UserError, match="every_n_iter=0"):
        make(one, iris.eval_input_fn, every_n_iter=0)


def test_training_stops_at_a_checkpoint_step(tmp_path):
    estimator = iris.estimator(tmp_path)
    hook = experimental.make_stop_at_checkpoint_step_hook(estimator, last_step=6)
    estimator.train(iris.endless_input_fn, hooks=[hook])
    assert estimator.get_variable_value("global_step") == 6


def test_metrics_are_added_to_those_of_the_model_fn(tmp_path):
    estimator = iris.estimator(tmp_path).train(iris.endless_input_fn, steps=20)

    def metric_fn(labels, predictions, features):
        wrong = tf.cast(
            tf.not_equal(tf.cast(labels, tf.int64), predictions["class_ids"]), tf.float32
        )
        mean = tf.compat.v1.metrics.mean
        return {"wrong": mean(wrong), "first": mean(features["x"][:, 0])}

    result = e.add_metrics(estimator, metric_fn).evaluate(iris.eval_input_fn)
    assert result["wrong"] == pytest.approx(1 - result["accuracy"], abs=1e-6)
    assert result["first"] == pytest.approx(iris.X[:, 0].mean(), abs=1e-5)
    assert result["global_step"] == 20
    with pytest.raises(UserError, match=r"not expected args: \['label'\]"):
        e.add_metrics(estimator, lambda label: {})


def test_networks_are_functions_of_features():
    columns = [tf.feature_column.numeric_column("x")]
    dnn = experimental.dnn_logit_fn_builder(3, [4], columns, tf.nn.relu, None, None, False)
    linear = experimental.linear_logit_fn_builder(3, columns)

    def model_fn(features, labels, mode):
        deep = experimental.call_logit_fn(dnn, features, mode)
        wide = experimental.call_logit_fn(linear, features, mode, params={}, config=None)
        return tfbig.EstimatorSpec(mode, predictions={"deep": deep, "wide": wide})

    estimator = tfbig.Estimator(model_fn, config=iris.config())
    first, _ = estimator.predict(lambda: tf.data.Dataset.from_tensors(X))
    assert first["deep"].shape == (3,)
    assert first["wide"].tolist() == [0.0] * 3
    with pytest.raises(UserError, match="must include features"):
        experimental.call_logit_fn(lambda x: x, X, "train")
    with pytest.raises(UserError, match="units must be an int"):
        experimental.linear_logit_fn_builder("3", columns)


def test_the_features_and_the_label_of_examples():
    columns = [tf.feature_column.numeric_column("x", [2])]
    spec = e.classifier_parse_example_spec(columns, "y", tf.string, weight_column="w")
    assert spec == {
        "x": tf.io.FixedLenFeature((2,), tf.float32),
        "y": tf.io.FixedLenFeature((1,), tf.string),
        "w": tf.io.FixedLenFeature((1,), tf.float32),
    }
    spec = e.regressor_parse_example_spec(columns, "y", label_dimension=3, label_default=[0.0] * 3)
    assert spec["y"] == tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3)
    with pytest.raises(UserError, match="label should not be used as feature: 'x'"):
        e.classifier_parse_example_spec(columns, "x")
