"""Exports of an Estimator, loaded with plain TensorFlow in a process without tfbig."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError
from tfbig.estimator import export

RAW = export.build_raw_serving_input_receiver_fn({"x": tf.TensorSpec([None, 4], tf.float32)})
PARSED = export.build_parsing_serving_input_receiver_fn(
    {"x": tf.io.FixedLenFeature([4], tf.float32)}
)

SERVE = """
import json, sys
import tensorflow as tf
for line in sys.stdin:
    folder, rows = json.loads(line)
    model = tf.saved_model.load(folder)
    examples = [
        tf.train.Example(features=tf.train.Features(feature={
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=row))
        })).SerializeToString()
        for row in rows
    ]
    results = {}
    for name, signature in model.signatures.items():
        ((argument, spec),) = signature.structured_input_signature[1].items()
        given = examples if spec.dtype == tf.string else rows
        outputs = signature(**{argument: tf.constant(given)})
        results[name] = [argument, {k: v.numpy().astype(str).tolist() for k, v in outputs.items()}]
    assert "tfbig" not in sys.modules
    print(json.dumps(results), flush=True)
"""


def model_fn(features, labels, mode, params):
    """Three kinds of outputs."""
    spec = iris.model_fn(features, labels, mode, params)
    if mode != tfbig.ModeKeys.PREDICT:
        return spec
    p = spec.predictions["probabilities"]
    classes = tf.tile(tf.constant([["setosa", "versicolor", "virginica"]]), [tf.shape(p)[0], 1])
    outputs = {
        "serving_default": export.ClassificationOutput(scores=p, classes=classes),
        "regression": export.RegressionOutput(p[:, 0]),
        "predict": export.PredictOutput(spec.predictions),
    }
    return tfbig.EstimatorSpec(mode, predictions=spec.predictions, export_outputs=outputs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    estimator = iris.estimator(folder, model_fn).train(iris.endless_input_fn, steps=10)
    p = np.stack([one["probabilities"] for one in estimator.predict(iris.features_input_fn)])
    return estimator, p


@pytest.fixture(scope="module")
def served():
    """Asks a process without tfbig for the signatures of a folder, their inputs and outputs."""
    words = [sys.executable, "-c", SERVE]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(folder, rows):
        print(json.dumps([folder, rows.tolist()]), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    with process:
        yield ask
        process.stdin.close()


def methods(folder):
    loaded = tf.compat.v1.Session(graph=tf.Graph())
    with loaded:
        graph = tf.compat.v1.saved_model.load(loaded, ["serve"], folder)
    names = graph.signature_def
    return {n: s.method_name.rsplit("/", 1)[1] for n, s in names.items() if not n.startswith("__")}


def test_parsed_examples_are_classified_regressed_and_predicted(trained, served, tmp_path):
    estimator, p = trained
    extra = tmp_path / "words.txt"
    extra.write_text("setosa")
    folder = estimator.export_saved_model(
        tmp_path / "out", PARSED, assets_extra={"a/words.txt": str(extra)}
    )
    assert os.path.dirname(folder) == str(tmp_path / "out")
    assert os.path.basename(folder).isdigit()
    assert (tmp_path / "out" / os.path.basename(folder) / "assets.extra/a/words.txt").exists()
    results = served(folder, iris.X[:3])
    assert {name: argument for name, (argument, _) in results.items()} == {
        "serving_default": "inputs",
        "regression": "inputs",
        "predict": "examples",
    }
    outputs = {name: out for name, (_, out) in results.items()}
    assert set(outputs["serving_default"]) == {"classes", "scores"}
    scores = np.array(outputs["serving_default"]["scores"], float)
    np.testing.assert_allclose(scores, p[:3], atol=1e-6)
    np.testing.assert_allclose(np.array(outputs["regression"]["outputs"], float), p[:3, 0], 1e-5)
    assert set(outputs["predict"]) == {"class_ids", "probabilities"}
    kinds = {"serving_default": "classify", "regression": "regress", "predict": "predict"}
    assert methods(folder) == kinds


def test_raw_features_keep_their_names_and_a_second_export_another_folder(
    trained, served, tmp_path
):
    estimator, p = trained
    one, two = (estimator.export_saved_model(tmp_path, RAW) for _ in range(2))
    assert one != two
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, (one, two)))
    results = served(two, iris.X)
    assert {name: argument for name, (argument, _) in results.items()} == dict.fromkeys(
        results, "x"
    )
    values = np.array(results["predict"][1]["probabilities"], float)
    np.testing.assert_allclose(values, p, atol=1e-6)
    assert set(methods(two).values()) == {"predict"}


def test_a_users_function_may_compute_features_and_offer_alternatives(trained, tmp_path):
    estimator, p = trained

    def receiver_fn():
        tenths = tf.compat.v1.placeholder(tf.float32, [None, 4], name="tenths")
        x = tenths * 10.0
        return export.ServingInputReceiver({"x": x}, {"tenths": tenths}, {"whole": {"x": x}})

    folder = estimator.export_saved_model(tmp_path, receiver_fn)
    signatures = tf.saved_model.load(folder).signatures
    assert {"predict", "whole:predict"} < set(signatures)
    out = signatures["predict"](tenths=tf.constant(iris.X / 10))["probabilities"]
    np.testing.assert_allclose(out, p, atol=1e-5)
    out = signatures["whole:predict"](x=tf.constant(iris.X))["probabilities"]
    np.testing.assert_allclose(out, p, atol=1e-6)


@pytest.mark.slow
def test_a_mirrored_run_is_exported_with_plain_variables(served, tmp_path, in_process):
    results = in_process(export_mirrored, str(tmp_path))
    got = served(results["folder"], iris.X[:4])["serving_default"][1]["probabilities"]
    np.testing.assert_allclose(np.array(got, float), results["p"], atol=1e-6)


def export_mirrored(folder):
    estimator = iris.estimator(folder, iris.keras_model_fn, strategy="mirrored", devices=2).train(
        iris.input_fn
    )
    predictions = list(estimator.predict(iris.features_input_fn))[:4]
    path = estimator.export_saved_model(os.path.join(folder, "out"), RAW)
    return {"folder": path, "p": [one["probabilities"].tolist() for one in predictions]}


def two_outputs(features, labels, mode, params):
    spec = iris.model_fn(features, labels, mode, params)
    if mode != tfbig.ModeKeys.PREDICT:
        return spec
    outputs = {k: export.PredictOutput(v) for k, v in spec.predictions.items()}
    return tfbig.EstimatorSpec(mode, predictions=spec.predictions, export_outputs=outputs)


def ragged_receiver():
    words = tf.compat.v1.placeholder(tf.string, [None])
    return export.ServingInputReceiver({"x": tf.strings.split(words)}, {"words": words})


def test_errors_name_what_cannot_be_exported(trained, tmp_path):
    estimator, _ = trained
    cases = [
        (lambda: estimator.export_saved_model(tmp_path, None), "must be defined"),
        (lambda: estimator.export_saved_model(tmp_path, lambda: 3), "returned int; return a"),
        (lambda: estimator.export_saved_model(tmp_path, RAW, as_text=True), "as_text"),
        (
            lambda: estimator.export_saved_model(tmp_path, RAW, {"a": "/nowhere"}),
            "'/nowhere', which is not a file",
        ),
        (
            lambda: iris.estimator(estimator.model_dir, two_outputs).export_saved_model(
                tmp_path, RAW
            ),
            "none of them is",
        ),
        (
            lambda: export.build_raw_serving_input_receiver_fn(
                {"x": tf.TensorSpec([], tf.float32)}
            ),
            "expected a batch dimension first",
        ),
        (
            lambda: estimator.export_saved_model(tmp_path, ragged_receiver),
            "features has a RaggedTensor; expected tensors and SparseTensors",
        ),
        (
            lambda: iris.estimator(tmp_path / "n").export_saved_model(tmp_path, RAW),
            "Could not find",
        ),
    ]
    for make, message in cases:
        with pytest.raises(UserError, match=message):
            make()
    assert os.listdir(tmp_path) == []
