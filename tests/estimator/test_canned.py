"""Canned estimators as a user meets them: they learn, export, resume and refuse."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_iris

import tfbig
from tests.estimator.data import canned_works as works
from tests.estimator.test_against_215 import group, write_checkpoint
from tests.estimator.test_canned_against_215 import SLOT, records
from tfbig.compat.v1 import estimator as old
from tfbig.errors import TrainingDiverged, UserError

e = tfbig.estimator
NAMES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
KINDS = np.array(["setosa", "versicolor", "virginica"])
CONFIG = tfbig.RunConfig(tf_random_seed=1, jit_compile=False)
X, Y = load_iris(return_X_y=True)
FEATURES = dict(zip(NAMES, X.T.astype(np.float32), strict=True))


def columns():
    return [tf.feature_column.numeric_column(name) for name in NAMES]


def input_fn():
    return tf.data.Dataset.from_tensor_slices((FEATURES, KINDS[Y])).shuffle(150, 1).batch(30)


def classifier(model_dir=None, **given):
    arguments = {
        "n_classes": 3,
        "label_vocabulary": KINDS.tolist(),
        "optimizer": keras.optimizers.Adam(0.02),
        "config": CONFIG,
        **given,
    }
    return e.DNNClassifier([16], columns(), model_dir, **arguments)


def examples():
    """The first of each kind, as serialized tf.train.Examples."""
    found = []
    for row in (0, 50, 100):
        one = tf.train.Example()
        for name in NAMES:
            one.features.feature[name].float_list.value.append(float(FEATURES[name][row]))
        found.append(one.SerializeToString())
    return found


@pytest.mark.slow
def test_it_learns_exports_and_its_export_says_the_same(tmp_path, caplog):
    iris = classifier(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        iris.train(lambda: input_fn().repeat(), steps=150)
    assert "deprecated" not in " ".join(
        r.getMessage() for r in caplog.records if "numeric_column" not in r.getMessage()
    )
    result = iris.evaluate(input_fn)
    assert result["accuracy"] > 0.93
    assert result["global_step"] == 150
    assert set(result) == {"accuracy", "average_loss", "loss", "global_step"}
    predicted = list(iris.predict(lambda: tf.data.Dataset.from_tensor_slices(FEATURES).batch(64)))
    assert [p["classes"][0].decode() for p in predicted[:3]] == ["setosa"] * 3
    parse = e.export.build_parsing_serving_input_receiver_fn(
        tf.feature_column.make_parse_example_spec(columns())
    )
    loaded = tf.saved_model.load(iris.export_saved_model(tmp_path / "export", parse))
    assert set(loaded.signatures) == {"serving_default", "classification", "predict"}
    served = loaded.signatures["serving_default"](inputs=tf.constant(examples()))
    expected = np.stack([predicted[row]["probabilities"] for row in (0, 50, 100)])
    np.testing.assert_allclose(served["scores"], expected, atol=1e-6)
    assert served["classes"].numpy()[0].tolist() == [name.encode() for name in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("module", [e, old])
def test_xla_compiles_it_with_its_summaries(module, tmp_path):
    data = lambda: tf.data.Dataset.from_tensors((FEATURES, Y)).repeat()  # noqa: E731
    config = CONFIG.replace(jit_compile=True, save_summary_steps=2)
    iris = module.DNNClassifier([8], columns(), tmp_path, n_classes=3, config=config)
    iris.train(data, steps=4)
    tags = {
        value.tag
        for path in tmp_path.rglob("*tfevents*")
        for record in tf.data.TFRecordDataset(str(path))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert any("hiddenlayer_0" in tag for tag in tags), tags


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [
    keras.optimizers.Adam(0.02), lambda: keras.optimizers.Adam(0.02),
    tf.compat.v1.train.AdamOptimizer(0.02), lambda: tf.compat.v1.train.AdamOptimizer(0.02),
])  # fmt: skip
def test_two_calls_of_train_are_one_longer_one(optimizer, tmp_path):
    data = lambda: tf.data.Dataset.from_tensors((FEATURES, KINDS[Y])).repeat()  # noqa: E731
    once = classifier(tmp_path / "once", optimizer=optimizer).train(data, steps=10)
    twice = classifier(tmp_path / "twice", optimizer=optimizer)
    twice.train(data, steps=4).train(data, steps=6)
    for name in ("dnn/hiddenlayer_0/kernel", "dnn/logits/bias"):
        np.testing.assert_array_equal(once.get_variable_value(name), twice.get_variable_value(name))


def test_a_checkpoint_of_tf_estimator_is_evaluated(tmp_path):
    recorded = group(records(), "v1/combined_binary")
    weights = {k: v for k, v in group(recorded, "final").items() if not SLOT.search(k)}
    folder = write_checkpoint(tmp_path / "old", weights)
    work = works.WORKS["combined_binary"]
    estimator = work.make(old, None, {"model_dir": folder, "config": CONFIG})
    found = estimator.evaluate(works.eval_input_fn(work))
    expected = {name: float(value) for name, value in group(recorded, "evaluation").items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_names_of_optimizers_have_the_rates_of_their_generation():
    make = tfbig.estimator.canned.optimizers.make_optimizer
    assert float(make("Adagrad", None, False).learning_rate) == pytest.approx(0.001)
    assert isinstance(make("SGD", 0.05, True), tf.compat.v1.train.GradientDescentOptimizer)
    assert issubclass(old.DNNClassifier, e.DNNClassifier)
    assert old.DNNClassifier.tf1


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "label"), [(2, 2), (3, -1)])
def test_a_label_out_of_range_ends_training_under_xla_too(classes, label, tmp_path):
    labels = np.where(np.arange(150) == 40, label, Y > 0)
    read = lambda: tf.data.Dataset.from_tensor_slices((FEATURES, labels)).batch(30)  # noqa: E731
    config = CONFIG.replace(jit_compile=True)
    iris = e.DNNClassifier([4], columns(), tmp_path, n_classes=classes, config=config)
    with pytest.raises(TrainingDiverged, match="Labels must be"):
        iris.train(read)


def test_activations_may_be_names_and_misspelt_arguments_name_the_class():
    one = classifier(activation_fn="relu").evaluate(input_fn)
    other = classifier(activation_fn=tf.nn.relu).evaluate(input_fn)
    assert one == other
    with pytest.raises(TypeError, match=r"DNNClassifier\(\) got an unexpected .* 'hiden_units'"):
        e.DNNClassifier([4], columns(), hiden_units=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classifier(n_classes=1), "n_classes=1: expected 2 or more"),
        (lambda: classifier(optimizer="Adm"), "Unsupported optimizer name: Adm. Supported names"),
        (lambda: classifier(optimizer=3), "is not an Optimizer instance. Given: 3"),
        (lambda: classifier(loss_reduction="mena"), "Invalid loss_reduction: mena"),
        (lambda: e.DNNClassifier([0], columns()), r"hidden_units=\[0\]"),
        (lambda: e.DNNClassifier([4], []), "feature_columns is empty"),
        (lambda: e.DNNClassifier([4], ["age"]), "feature_columns has 'age', which is no column"),
        (lambda: e.DNNEstimator(3, [4], columns()), "head=3: expected a head"),
        (lambda: e.LinearClassifier(columns(), sparse_combiner="max"), "sparse_combiner='max'"),
        (lambda: e.DNNLinearCombinedClassifier(), "Either linear_feature_columns or dnn_feature"),
        (
            lambda: e.DNNLinearCombinedClassifier(dnn_feature_columns=columns()),
            "dnn_hidden_units must be defined",
        ),
        (
            lambda: old.DNNClassifier([4], columns(), input_layer_partitioner=print),
            "leave partitioners out",
        ),
        (
            lambda: classifier().train(lambda: tf.data.Dataset.from_tensors((X, Y)), steps=1),
            "features should be a dictionary",
        ),
        (
            lambda: classifier(optimizer=lambda: 3).train(input_fn, steps=1),
            "is not an Optimizer instance",
        ),
    ],
)
def test_errors_say_what_to_write(make, message):
    with pytest.raises(UserError, match=message):
        make()
