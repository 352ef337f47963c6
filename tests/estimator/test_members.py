"""What programs for tf.estimator call besides train, evaluate and predict."""

import inspect
import logging
import os

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError
from tfbig.estimator import export

RAW = export.build_raw_serving_input_receiver_fn({"x": tf.TensorSpec([None, 4], tf.float32)})


def headed(features, labels, mode, params):
    """With one named export output."""
    spec = iris.model_fn(features, labels, mode, params)
    if mode == tfbig.ModeKeys.PREDICT:
        outputs = {"head": export.PredictOutput(spec.predictions)}
        return spec._replace(export_outputs=outputs)
    return spec


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An Estimator after 10 steps, and the probabilities that it predicts."""
    folder = tmp_path_factory.mktemp("trained")
    estimator = iris.estimator(folder, headed).train(iris.endless_input_fn, steps=10)
    p = np.stack([one["probabilities"] for one in estimator.predict(iris.features_input_fn)])
    return estimator, p


# The specs.


def test_replace_of_an_estimator_spec_changes_one_field_of_a_copy():
    with tf.Graph().as_default():
        first, second = tf.constant([1.0]), tf.constant([2.0])
        hook = iris.v1.train.StopAtStepHook(3)
        spec = tfbig.EstimatorSpec("eval", loss=first, predictions=first, evaluation_hooks=[hook])
        new = spec._replace(loss=second)
        assert type(new) is tfbig.EstimatorSpec
        assert (new.loss, new.predictions, new.evaluation_hooks) == (second, first, (hook,))
        assert (new.mode, spec.loss) == ("eval", first)
        with pytest.raises(UserError, match="eval_metric_ops"):
            spec._replace(eval_metric_ops={"a": 3})
    with pytest.raises(TypeError, match="metrics"):
        spec._replace(metrics=None)


def test_replace_of_a_train_spec_changes_one_field_of_a_copy():
    spec = tfbig.TrainSpec(iris.input_fn, max_steps=5)
    new = spec._replace(max_steps=3)
    assert (new.input_fn, new.max_steps, spec.max_steps) == (iris.input_fn, 3, 5)
    with pytest.raises(UserError, match="TrainSpec.max_steps=0"):
        spec._replace(max_steps=0)


def test_replace_of_an_eval_spec_changes_one_field_of_a_copy():
    exporter = tfbig.FinalExporter("final", RAW)
    spec = tfbig.EvalSpec(iris.input_fn, steps=4, name="own", exporters=exporter)
    new = spec._replace(steps=None)
    assert (new.steps, new.name, new.exporters, spec.steps) == (None, "own", (exporter,), 4)
    with pytest.raises(UserError, match="EvalSpec.steps=0"):
        spec._replace(steps=0)


# The properties.


def test_params_are_a_copy_on_the_way_in_and_out(tmp_path):
    given = {"units": 8, "layers": [1, 2]}
    estimator = iris.estimator(tmp_path, params=given)
    given["units"] = 9
    given["layers"].append(3)
    assert estimator.params == {"units": 8, "layers": [1, 2]}
    estimator.params["layers"].append(4)
    assert estimator.params == {"units": 8, "layers": [1, 2]}


def test_its_model_fn_has_params_bound_and_can_be_called(tmp_path):
    estimator = iris.estimator(tmp_path, params={"units": 5})
    names = list(inspect.signature(estimator.model_fn).parameters)
    assert names == ["features", "labels", "mode", "config"]
    with tf.Graph().as_default():
        features, labels = {"x": tf.constant(iris.X)}, tf.constant(iris.Y)
        spec = estimator.model_fn(features, labels, "eval", estimator.config)
        shapes = {v.op.name: v.shape.as_list() for v in iris.v1.trainable_variables()}
        with iris.v1.Session() as session:
            session.run(iris.v1.global_variables_initializer())
            loss, p = session.run([spec.loss, spec.predictions["probabilities"]])
    assert shapes["hidden/kernel"] == [4, 5]
    assert loss == pytest.approx(-np.log(p[range(150), iris.Y]).mean(), abs=1e-5)


def test_its_model_fn_can_be_that_of_another_estimator(trained, tmp_path):
    estimator, p = trained

    def doubled(features, labels, mode, config):
        spec = estimator.model_fn(features, labels, mode, config)
        return spec._replace(predictions={"twice": 2.0 * spec.predictions["probabilities"]})

    outer = tfbig.Estimator(doubled, estimator.model_dir, iris.config(), strategy="one_device")
    found = np.stack([one["twice"] for one in outer.predict(iris.features_input_fn)])
    np.testing.assert_allclose(found, 2.0 * p, atol=1e-6)


def test_model_fn_and_input_fn_read_the_estimators_model_dir_from_config(tmp_path):
    seen = []

    def model_fn(features, labels, mode, config):
        seen.append(config.model_dir)
        return iris.model_fn(features, labels, mode, iris.PARAMS)

    def input_fn(config):
        seen.append(config.model_dir)
        return iris.input_fn()

    config = iris.config()
    estimator = tfbig.Estimator(model_fn, tmp_path, config, strategy="one_device")
    assert estimator.config == config.replace(model_dir=str(tmp_path))
    assert config.model_dir is None
    estimator.train(input_fn, steps=1)
    assert len(seen) > 1
    assert set(seen) == {str(tmp_path)}


def test_an_empty_model_dir_is_a_temporary_folder(caplog):
    with caplog.at_level(logging.WARNING, "tfbig"):
        estimator = tfbig.Estimator(iris.model_fn, model_dir="")
    assert f"Using temporary folder as model directory: {estimator.model_dir}" in caplog.text
    assert estimator.config.model_dir == estimator.model_dir
    os.rmdir(estimator.model_dir)


# Subclasses.


class Overriding(tfbig.Estimator):
    def predict(self, input_fn):
        return input_fn


class OverridingTwo(Overriding):
    def train(self, input_fn):
        return input_fn


class Extending(tfbig.Estimator):
    """With a constructor and methods of its own, which is allowed."""

    def __init__(self, model_dir):
        super().__init__(
            headed, model_dir, iris.config(), params=iris.PARAMS, strategy="one_device"
        )

    def accuracy(self):
        return self.evaluate(iris.eval_input_fn)["accuracy"]


def test_a_subclass_cannot_override_methods_but_add_some(trained):
    with pytest.raises(UserError, match="Overriding does override predict; give the method anot"):
        Overriding(iris.model_fn, params=iris.PARAMS)
    with pytest.raises(UserError, match="OverridingTwo does override predict, train; give the"):
        OverridingTwo(iris.model_fn, params=iris.PARAMS)
    estimator, p = trained
    found = Extending(estimator.model_dir).accuracy()
    assert found == pytest.approx((p.argmax(1) == iris.Y).mean(), abs=1e-6)


# Exports.


def predicted(folder, signature="serving_default"):
    out = tf.saved_model.load(folder).signatures[signature](x=tf.constant(iris.X))
    return out["probabilities"]


def test_one_named_output_is_serving_default_too(trained, tmp_path):
    estimator, p = trained
    folder = estimator.export_saved_model(tmp_path, RAW)
    assert set(tf.saved_model.load(folder).signatures) == {"head", "serving_default"}
    for signature in ("head", "serving_default"):
        np.testing.assert_allclose(predicted(folder, signature), p, atol=1e-6)


def test_export_savedmodel_is_the_older_name(trained, tmp_path):
    estimator, p = trained
    extra = tmp_path / "words.txt"
    extra.write_text("setosa")
    folder = estimator.export_savedmodel(
        tmp_path / "out", RAW, {"words.txt": str(extra)}, False, estimator.latest_checkpoint()
    )
    assert os.listdir(tmp_path / "out") == [os.path.basename(folder)]
    assert os.path.exists(os.path.join(folder, "assets.extra", "words.txt"))
    np.testing.assert_allclose(predicted(folder), p, atol=1e-6)


def test_export_all_saved_models_writes_that_for_serving(trained, tmp_path):
    estimator, p = trained
    mapping = {tfbig.ModeKeys.PREDICT: RAW}
    folder = estimator.experimental_export_all_saved_models(tmp_path, mapping)
    np.testing.assert_allclose(predicted(folder), p, atol=1e-6)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"infer": RAW, "train": RAW, "eval": RAW}, "modes \\['eval', 'train'\\] are not exported"),
        ({"train": RAW}, "modes \\['train'\\] are not exported: a SavedModel of tfbig is for serv"),
        ({}, "{}\\): expected {tfbig.ModeKeys.PREDICT: serving_input_receiver_fn}"),
        (RAW, "expected {tfbig.ModeKeys.PREDICT: serving_input_receiver_fn}"),
    ],
)
def test_export_all_saved_models_refuses_other_modes(trained, tmp_path, mapping, message):
    with pytest.raises(UserError, match=message):
        trained[0].experimental_export_all_saved_models(tmp_path, mapping)
    assert os.listdir(tmp_path) == []


def test_a_spec_has_empty_hooks_and_metrics_to_add_to():
    spec = tfbig.EstimatorSpec("infer", predictions=1)
    hook = tf.compat.v1.train.SessionRunHook()
    more = spec._replace(
        prediction_hooks=[*spec.prediction_hooks, hook],
        eval_metric_ops={**spec.eval_metric_ops},
    )
    assert (more.prediction_hooks, more.training_hooks, more.eval_metric_ops) == ((hook,), (), {})
    assert isinstance(spec.scaffold, tf.compat.v1.train.Scaffold)
