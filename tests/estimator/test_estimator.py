"""tfbig.Estimator: train, evaluate and predict with the checkpoints in model_dir."""

import logging
import os

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris, runs
from tests.harness import ProcessFailed
from tfbig.errors import CheckpointError, UserError

SLOTS = [f"{v}/Adam{n}" for v in ("hidden/kernel", "logits/bias") for n in ("", "_1")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An Estimator after 60 steps of training."""
    folder = tmp_path_factory.mktemp("trained")
    return iris.estimator(folder).train(iris.endless_input_fn, steps=60)


@pytest.fixture(scope="module")
def trained_by_keras(tmp_path_factory):
    """The same in Keras style."""
    folder = tmp_path_factory.mktemp("trained_by_keras")
    return iris.estimator(folder, iris.keras_model_fn).train(iris.endless_input_fn, steps=60)


def copied(estimator, tmp_path):
    """A copy of an Estimator with its own model_dir."""
    tf.io.gfile.makedirs(str(tmp_path / "run"))
    for folder, _, files in os.walk(estimator.model_dir):
        target = tmp_path / "run" / os.path.relpath(folder, estimator.model_dir)
        target.mkdir(exist_ok=True, parents=True)
        for name in files:
            (target / name).write_bytes(open(os.path.join(folder, name), "rb").read())
    return iris.estimator(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["trained", "trained_by_keras"])
def test_evaluate_equals_a_numpy_evaluation_of_the_predictions(dialect, request):
    trained = request.getfixturevalue(dialect)
    result = trained.evaluate(iris.eval_input_fn)
    predictions = list(trained.predict(iris.features_input_fn))
    p = np.stack([one["probabilities"] for one in predictions])
    assert len(predictions) == 150
    assert set(result) == {"loss", "accuracy", "global_step"}
    assert result["global_step"] == 60
    assert result["loss"] == pytest.approx(-np.log(p[range(150), iris.Y]).mean(), abs=1e-5)
    assert result["accuracy"] == pytest.approx((p.argmax(1) == iris.Y).mean(), abs=1e-6)
    assert result["accuracy"] > 0.9
    assert [one["class_ids"] for one in predictions] == list(p.argmax(1))


def test_predict_gives_batches_and_chosen_keys(trained):
    labelled = iris.eval_input_fn  # predict ignores the labels
    batches = list(
        trained.predict(labelled, predict_keys=["class_ids"], yield_single_examples=False)
    )
    assert [set(batch) for batch in batches] == [{"class_ids"}] * 4
    assert [len(batch["class_ids"]) for batch in batches] == [40, 40, 40, 30]
    with pytest.raises(UserError, match="Expected to run at least one output from"):
        trained.predict(labelled, predict_keys=["logits"])


def test_tensorflow_1_names_are_in_the_checkpoint(trained):
    names = trained.get_variable_names()
    assert {"hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias"} < set(names)
    assert {*SLOTS, "beta1_power", "beta2_power", "global_step"} < set(names)
    assert dict(tf.train.list_variables(trained.model_dir)).keys() == set(names)
    assert tf.train.latest_checkpoint(trained.model_dir) == trained.latest_checkpoint()
    reader = tf.train.load_checkpoint(trained.latest_checkpoint())
    kernel = reader.get_tensor("hidden/kernel")
    np.testing.assert_array_equal(trained.get_variable_value("hidden/kernel"), kernel)
    assert kernel.shape == (4, 8)
    assert trained.get_variable_value("global_step") == 60
    with pytest.raises(UserError, match="has no variable 'dense/kernel'; it has .*hidden/kernel"):
        trained.get_variable_value("dense/kernel")


def test_a_model_dir_can_be_moved(trained, tmp_path):
    moved = copied(trained, tmp_path)
    assert tf.train.latest_checkpoint(moved.model_dir).startswith(str(tmp_path))
    assert iris.values(moved.model_dir).keys() == iris.values(trained.model_dir).keys()


def test_steps_are_added_and_max_steps_is_a_limit(trained, tmp_path):
    estimator = copied(trained, tmp_path)
    estimator.train(iris.endless_input_fn, steps=5)
    assert estimator.get_variable_value("global_step") == 65
    before = iris.values(estimator.model_dir)
    estimator.train(iris.endless_input_fn, max_steps=65)
    np.testing.assert_equal(iris.values(estimator.model_dir), before)
    estimator.train(iris.endless_input_fn, max_steps=66)
    assert estimator.get_variable_value("global_step") == 66


@pytest.mark.slow
def test_each_train_reads_the_data_from_the_start(tmp_path):
    estimator = iris.estimator(tmp_path)
    for step in (5, 10):  # one pass has five batches
        estimator.train(iris.input_fn)
        assert estimator.get_variable_value("global_step") == step
    source = tfbig.data.ArraySource(({"x": iris.X}, iris.Y)).batch(iris.BATCH)
    for step in (15, 20):
        estimator.train(lambda: source)
        assert estimator.get_variable_value("global_step") == step


@pytest.mark.slow
def test_two_calls_of_train_equal_one_call_on_concatenated_data(tmp_path):
    first, second = iris.eval_input_fn().take(2), iris.eval_input_fn().skip(2)
    two = iris.estimator(tmp_path / "two").train(lambda: first).train(lambda: second)
    one = iris.estimator(tmp_path / "one").train(lambda: first.concatenate(second))
    np.testing.assert_equal(iris.values(two.model_dir), iris.values(one.model_dir))


@pytest.mark.slow
def test_evaluate_takes_steps_a_checkpoint_and_a_name(trained, tmp_path):
    estimator = copied(trained, tmp_path)
    old = estimator.latest_checkpoint()
    estimator.train(iris.endless_input_fn, steps=20)
    whole = estimator.evaluate(iris.eval_input_fn)
    assert estimator.evaluate(iris.eval_input_fn, checkpoint_path=old)["global_step"] == 60
    part = estimator.evaluate(lambda: iris.eval_input_fn().repeat(), steps=2, name="part")
    assert part["loss"] != pytest.approx(whole["loss"], abs=1e-4)
    found = tfbig.estimator.read_eval_metrics(estimator.eval_dir("part"))
    assert found == {80: pytest.approx({"loss": part["loss"], "accuracy": part["accuracy"]})}
    assert set(tfbig.estimator.read_eval_metrics(estimator.eval_dir())) == {60, 80}


def test_without_a_checkpoint_evaluate_and_predict_use_the_same_initial_values(tmp_path, caplog):
    estimator = iris.estimator(tmp_path)
    with caplog.at_level(logging.WARNING, "tfbig"):
        result = estimator.evaluate(iris.eval_input_fn)
        p = np.stack([one["probabilities"] for one in estimator.predict(iris.features_input_fn)])
    assert result["global_step"] == 0
    assert result["loss"] == pytest.approx(-np.log(p[range(150), iris.Y]).mean(), abs=1e-5)
    missing = f"Could not find trained model in model_dir: {tmp_path}, running initialization to "
    assert [m for m in caplog.messages if m.startswith("Could")] == [
        f"{missing}evaluate",
        f"{missing}predict",
    ]
    assert estimator.latest_checkpoint() is None


def test_another_model_fn_does_not_fit_the_checkpoint(trained):
    other = iris.estimator(trained.model_dir, params={"units": 9})
    for use in (
        lambda: other.train(iris.input_fn),
        lambda: other.evaluate(iris.eval_input_fn),
        lambda: other.predict(iris.features_input_fn),
    ):
        with pytest.raises(CheckpointError, match=r"hidden/(bias|kernel)"):
            use()

    def more(features, labels, mode):
        del labels
        return tfbig.EstimatorSpec(mode, predictions=iris.dense(features["x"], 2, "new"))

    with pytest.raises(CheckpointError, match="has no new/bias, new/kernel; it has"):
        iris.estimator(trained.model_dir, more).predict(iris.features_input_fn)


def test_no_model_dir_is_a_temporary_folder_that_the_log_names(caplog):
    with caplog.at_level(logging.WARNING, "tfbig"):
        estimator = tfbig.Estimator(iris.model_fn)
    assert f"Using temporary folder as model directory: {estimator.model_dir}" in caplog.text
    os.rmdir(estimator.model_dir)


def no_features(labels, mode):
    del labels, mode


def no_labels(features, mode):
    del features, mode


def more_arguments(features, labels, mode, width, depth):
    del features, labels, mode, width, depth


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e: e.train(iris.input_fn, steps=1, max_steps=2), "Can not provide both steps and"),
        (lambda e: e.train(iris.input_fn, steps=0), "Must specify steps > 0, given: 0"),
        (lambda e: e.train(iris.input_fn()), "expected a function that returns"),
        (lambda e: e.train(iris.endless_input_fn), "infinite Dataset"),
        (lambda e: e.train(lambda: next(iter(iris.input_fn()))), "return the Dataset itself: `ret"),
        (
            lambda e: e.train(lambda: iris.input_fn().make_one_shot_iterator().get_next()),
            "return the Dataset itself: `return dataset`",
        ),
        (lambda e: e.evaluate(iris.endless_input_fn), "pass steps, or leave out .repeat"),
        (lambda e: e.train(iris.input_fn, hooks=[3]), "has 3, which is not a hook"),
        (lambda e: e.train(iris.input_fn, hooks=3), "expected a list of hooks"),
        (lambda e: tfbig.Estimator(no_features), "must take features as its first argument"),
        (
            lambda e: tfbig.Estimator(more_arguments),
            r"model_fn \(more_arguments\) has following not expected args: \['width', 'depth'\]",
        ),
        (
            lambda e: tfbig.Estimator(no_labels, params={"units": 1}),
            r"model_fn \(no_labels\) does not include params argument, but params \({'units': 1}\)",
        ),
        (
            lambda e: tfbig.Estimator(no_labels, e.model_dir).train(iris.input_fn),
            "model_fn does not take labels, but input_fn returns labels",
        ),
        (lambda e: tfbig.Estimator(iris.model_fn, config={}), "expected a tfbig.RunConfig"),
        (lambda e: tfbig.Estimator(iris.model_fn, warm_start_from=3), "expected a path"),
        (lambda e: e.evaluate(iris.input_fn, checkpoint_path="/nowhere"), "there is no checkpoint"),
        (lambda e: e.predict(iris.input_fn, checkpoint_path="/nowhere"), "there is no checkpoint"),
    ],
)
def test_errors_name_the_invalid_argument(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        make(iris.estimator(tmp_path / "run"))


def test_params_reach_input_fn_and_labels_may_be_a_dict(tmp_path):
    def input_fn(params, mode):
        assert mode == "train"
        data = ({"x": iris.X}, {"kind": iris.Y, "other": iris.X[:, :1]})
        return tf.data.Dataset.from_tensor_slices(data).batch(params["batch_size"])

    def model_fn(features, labels, mode, params):
        return iris.model_fn(features, labels["kind"], mode, params)

    params = {**iris.PARAMS, "batch_size": 50}
    estimator = iris.estimator(tmp_path, model_fn, params=params).train(input_fn)
    assert estimator.get_variable_value("global_step") == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf1", "keras"])
def test_a_new_process_evaluates_and_predicts_bit_for_bit(kind, tmp_path, in_process):
    first = in_process(runs.train_and_use, kind, str(tmp_path), "one_device", 1)
    again = in_process(runs.use, kind, str(tmp_path), "one_device", 1)
    assert again["result"]["global_step"] == 100
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf1", "keras"])
def test_a_killed_run_resumes_bit_for_bit_in_a_new_process(kind, tmp_path, in_process):
    whole = in_process(runs.train_whole, kind, str(tmp_path / "whole"))
    with pytest.raises(ProcessFailed, match="exit code -9"):
        in_process(runs.train_killed, kind, str(tmp_path / "parts"))
    parts = in_process(runs.train_whole, kind, str(tmp_path / "parts"))
    assert parts["global_step"] == whole["global_step"] == 40
    assert parts == whole
    np.testing.assert_equal(iris.values(tmp_path / "parts"), iris.values(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf1", "keras"])
def test_two_replicas_compute_what_one_device_does(kind, tmp_path, in_process):
    one = in_process(runs.train_and_use, kind, str(tmp_path / "one"), "one_device", 1)
    two = in_process(runs.train_and_use, kind, str(tmp_path / "two"), "mirrored", 2)
    assert two["ids"] == one["ids"]
    assert len(two["ids"]) == 150
    np.testing.assert_allclose(two["weights"], one["weights"], atol=1e-5)
    for name, value in one["result"].items():
        assert two["result"][name] == pytest.approx(value, abs=1e-5)
