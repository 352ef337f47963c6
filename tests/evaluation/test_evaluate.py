"""tfbig.evaluate: the metrics of a model on a hold-out set, for every kind of model."""

import json

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

import tfbig
from tests import harness
from tests.finetuning import pretrained
from tests.training.small_runs import arrays, build, config, dataset, source, train
from tfbig.errors import UserError
from tfbig.evaluation.statistics import bootstrap
from tfbig.metrics.class_reader import ClassReader
from tfbig.metrics.classification import Accuracy

X, Y = arrays()  # 152 examples: ten batches, the last one half full


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return train(max_steps=60).model


def weighted():
    weights = np.linspace(0, 2, len(X)).astype("float32")
    return tfbig.data.ArraySource((X, Y, weights)).batch(16)


def test_metrics_equal_scikit_learn_and_the_loss_equals_keras(model):
    figures = tfbig.evaluate(model, source)
    logits = model.predict(X, verbose=0)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    guess = logits.argmax(1)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(Y, guess),
        "f1_macro": sklearn.metrics.f1_score(Y, guess, average="macro"),
        "roc_auc": sklearn.metrics.roc_auc_score(Y, chances, multi_class="ovr"),
        "log_loss": sklearn.metrics.log_loss(Y, chances),
        "loss": model.evaluate(X, Y, verbose=0, return_dict=True)["loss"],
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    matrix = sklearn.metrics.confusion_matrix(Y, guess)
    np.testing.assert_array_equal(figures["confusion_matrix"], matrix)
    assert list(figures)[:3] == ["loss", "accuracy", "top_2_accuracy"]  # there are three classes
    assert "compiled_accuracy" not in figures  # Keras has the same value


def test_sample_weights_apply_to_the_metrics_and_the_loss():
    model = build()
    weights = weighted().read(np.arange(len(X)))[2]
    figures = tfbig.evaluate(model, weighted, metrics=["accuracy"])
    guess = model.predict(X, verbose=0).argmax(1)
    expected = model.evaluate(X, Y, sample_weight=weights, batch_size=len(X), return_dict=True)
    accuracy = sklearn.metrics.accuracy_score(Y, guess, sample_weight=weights)
    assert figures["accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert figures["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert figures["compiled_accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)


def uneven():
    return tfbig.data.ArraySource((X[:85], Y[:85])).batch(
        16
    )  # the last five are split into three and two


def on_two_replicas(path: str) -> list:
    found = []
    for input_fn in (uneven, weighted, dataset):
        figures = tfbig.evaluate(path, input_fn, strategy="mirrored", devices=2)
        figures["confusion_matrix"] = figures["confusion_matrix"].tolist()
        found.append(figures)
    return found


@pytest.mark.slow
def test_two_replicas_give_the_same_results_with_an_uneven_last_batch(model, tmp_path):
    path = str(tmp_path / "model.keras")
    model.save(path)
    found = harness.call(on_two_replicas, tmp_path, path, timeout=180)
    for input_fn, figures in zip((uneven, weighted, dataset), found, strict=True):
        expected = tfbig.evaluate(path, input_fn, strategy="one_device")
        assert figures.keys() == expected.keys()
        np.testing.assert_array_equal(
            figures.pop("confusion_matrix"), expected.pop("confusion_matrix")
        )
        for name, value in expected.items():
            assert figures[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.slow
def test_steps_limits_the_batches_also_of_infinite_data(model):
    expected = tfbig.evaluate(model, lambda: tfbig.data.ArraySource((X[:48], Y[:48])).batch(16))
    for input_fn in (source, dataset, lambda: dataset().repeat()):
        figures = tfbig.evaluate(model, input_fn, steps=3)
        assert figures["accuracy"] == expected["accuracy"]
        assert figures["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    whole = tfbig.evaluate(model, source, steps=1000)
    assert whole["accuracy"] == tfbig.evaluate(model, source)["accuracy"]
    with pytest.raises(UserError, match="infinite Dataset, so the evaluation would not end; pass"):
        tfbig.evaluate(model, lambda: dataset().repeat())
    with pytest.raises(UserError, match="steps=0: expected an integer of 1 or more, or None"):
        tfbig.evaluate(model, source, steps=0)


def test_the_data_is_read_once_for_the_loss_and_the_metrics(model):
    read = []

    def examples():
        read.append(len(read))
        yield from zip(X, Y, strict=True)

    def input_fn():
        specs = tf.TensorSpec([8], tf.float32), tf.TensorSpec([], tf.int32)
        return tf.data.Dataset.from_generator(examples, output_signature=specs).batch(16)

    figures = tfbig.evaluate(model, input_fn)
    # Reading the first batch for its size and evaluating need one pass.
    assert len(read) == 1
    assert figures["loss"] == pytest.approx(figures["log_loss"], abs=1e-6)


def test_metrics_may_be_names_metrics_and_keras_objects(model):
    wanted = [
        "top_2_accuracy",
        Accuracy(ClassReader(from_logits=True), name="mine"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="keras_top_2"),
    ]
    figures = tfbig.evaluate(model, source, metrics=wanted)
    assert list(figures) == ["loss", "top_2_accuracy", "mine", "keras_top_2", "accuracy"]
    assert figures["mine"] == pytest.approx(figures["accuracy"], abs=1e-7)
    assert figures["keras_top_2"] == pytest.approx(figures["top_2_accuracy"], abs=1e-7)
    assert list(tfbig.evaluate(model, source, metrics=[])) == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("accuracy", r"metrics='accuracy': expected a list .* write metrics=\['accuracy'\]"),
        (["acuracy"], "no metric 'acuracy' for 'classes'; did you mean 'accuracy'"),
        ([keras.metrics.AUC], "metrics has <class .*AUC'>: expected a name .* keras.metrics.AUC()"),
        (["f1_macro", Accuracy(name="f1_macro")], "metrics has 'f1_macro' more than once"),
    ],
)
def test_invalid_metrics_are_refused(model, metrics, message):
    with pytest.raises(UserError, match=message):
        tfbig.evaluate(model, source, metrics=metrics)


def test_an_uncompiled_model_has_only_the_metrics(model):
    plain = keras.Sequential([keras.Input((8,)), *model.layers])
    figures = tfbig.evaluate(plain, source, metrics=["accuracy"])
    assert figures == {"accuracy": tfbig.evaluate(model, source)["accuracy"]}
    with pytest.raises(UserError, match="there is nothing to report: the model is not compiled"):
        tfbig.evaluate(plain, source, metrics=[])


def test_the_callers_model_is_unchanged(model):
    model.optimizer.build(model.trainable_variables)
    model.evaluate(X, Y, verbose=0)  # leaves its sums in the metrics
    everything = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [v.numpy() for v in everything]
    optimizer = model.optimizer
    tfbig.evaluate(model, source)
    assert model.optimizer is optimizer
    for variable, value in zip(everything, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_intervals_are_those_of_the_bootstrap(model):
    figures = tfbig.evaluate(model, source, metrics=["accuracy", "roc_auc"], intervals=50)
    logits = model.predict(X, verbose=0)
    assert list(figures["intervals"]) == ["accuracy", "roc_auc"]
    for name, interval in figures["intervals"].items():
        expected = bootstrap(name, Y, logits, samples=50)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
        assert interval.value == figures[name]
    with pytest.raises(UserError, match="intervals=-5: expected an integer of 1 or more, or None"):
        tfbig.evaluate(model, source, intervals=-5)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["h5", "checkpoint", "savedmodel"])
def test_a_saved_model_of_every_kind_is_evaluated_predicted_and_exported(fmt, tmp_path):
    model = pretrained.trained()
    path = pretrained.save_all(model, tmp_path)[fmt]
    given = {"base_model_fn": pretrained.build} if fmt == "checkpoint" else {}
    error = np.abs(model.predict(pretrained.X, verbose=0) - pretrained.Y).mean()

    figures = tfbig.evaluate(path, pretrained.batches, **given)
    assert figures["mae"] == pytest.approx(error, abs=1e-6)
    assert ("loss" in figures) == (fmt != "savedmodel")  # a SavedModel has no compile state
    guess = np.array(list(tfbig.predict(path, pretrained.batches, **given)))
    assert np.abs(guess.reshape(32, 2) - pretrained.Y).mean() == pytest.approx(error, abs=1e-6)
    exported = tfbig.export(path, tmp_path / "export", **given)
    assert tfbig.evaluate(exported, pretrained.batches)["mae"] == pytest.approx(error, abs=1e-6)


@pytest.mark.slow
def test_the_report_of_a_run_has_its_learning_curves(tmp_path):
    run = str(tmp_path / "run")
    steps = config(eval_every_steps=10, log_step_count_steps=10, save_summary_steps=10)
    result = train(max_steps=30, eval_input_fn=source, model_dir=run, config=steps)
    out = tmp_path / "report"
    figures = tfbig.evaluate(
        run, source, base_model_fn=build, model_dir=out, class_names=["a", "b", "c"], intervals=20
    )
    assert figures["loss"] == pytest.approx(result.metrics["loss"], abs=1e-6)
    names = ["confusion_matrix", "learning_curves", "reliability", "roc"]
    assert sorted(p.name for p in out.glob("*.png")) == [f"{name}.png" for name in names]
    written = json.loads((out / "metrics.json").read_text())
    assert written["loss"] == figures["loss"]
    assert written["class_names"] == ["a", "b", "c"]
    assert written["intervals"]["accuracy"]["low"] == figures["intervals"]["accuracy"].low
    assert written["confusion_matrix"] == figures["confusion_matrix"].tolist()


def test_errors_name_what_cannot_be_evaluated(model, tmp_path):
    with pytest.raises(UserError, match=r"^evaluate: model_or_path='no.h5': there is no"):
        tfbig.evaluate("no.h5", source)
    with pytest.raises(UserError, match="class_names has 2 names, but the predictions have 3"):
        tfbig.evaluate(model, source, class_names=["a", "b"])
    with pytest.raises(UserError, match="task='class': expected one of 'binary', 'classes'"):
        tfbig.evaluate(model, source, task="class")
    with pytest.raises(UserError, match="the Dataset is empty"):
        tfbig.evaluate(model, lambda: dataset().take(0))
