"""Values of eval_metric_ops that are no single numbers: structures, arrays and Summaries."""

import glob
import logging
import os

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError

v1 = tf.compat.v1
X = np.random.RandomState(0).uniform(-1, 1, [10, 3]).astype("float32")
PIXELS = np.arange(2 * 4 * 5, dtype="uint8").reshape([2, 4, 5, 1])


def input_fn():
    """Batches of 4, 4 and 2."""
    return tf.data.Dataset.from_tensor_slices(X).batch(4)


def with_metrics(metrics):
    """A model_fn whose evaluations return `metrics(features)`, and whose training does nothing."""

    def model_fn(features, labels, mode):
        del labels
        w = v1.get_variable("w", [], initializer=v1.ones_initializer())
        loss = tf.reduce_mean(features * w)
        train_op = v1.train.GradientDescentOptimizer(0.0).minimize(loss, v1.train.get_global_step())
        return tfbig.EstimatorSpec(
            mode, loss=loss, train_op=train_op, eval_metric_ops=metrics(features)
        )

    return model_fn


def events(folder):
    """What the event files of a folder hold, by tag."""
    return {
        value.tag: value
        for path in glob.glob(os.path.join(folder, "events*"))
        for event in v1.train.summary_iterator(path)
        for value in event.summary.value
    }


def scalars(folder):
    found = events(folder).items()
    return {tag: float(tf.make_ndarray(v.tensor)) for tag, v in found if v.HasField("tensor")}


# Structures and arrays.


def nested(features):
    first, first_update = v1.metrics.mean(features[:, 0])
    second, second_update = v1.metrics.mean(features[:, 1])
    rows, rows_update = v1.metrics.mean_tensor(tf.reduce_sum(features, 0))
    return {
        "pair": ((first, (second, tf.constant(7))), tf.group(first_update, second_update)),
        "list": ([second, rows], second_update),
        "rows": (rows, rows_update),
        "plain": v1.metrics.mean(features[:, 2]),
    }


def check_nested(result, step):
    first, second, third = X.mean(0)
    assert set(result) == {"loss", "pair", "list", "rows", "plain", "global_step"}
    assert result["global_step"] == step
    assert result["loss"] == pytest.approx(X.mean(), abs=1e-6)
    assert isinstance(result["pair"], tuple)
    a, (b, c) = result["pair"]
    assert (a, b, c) == pytest.approx((first, second, 7.0), abs=1e-6)
    assert isinstance(result["list"], list)
    assert result["list"][0] == pytest.approx(second, abs=1e-6)
    for rows in (result["list"][1], result["rows"]):
        assert isinstance(rows, np.ndarray)
        np.testing.assert_allclose(rows, X.sum(0) / 3, rtol=1e-5)
    assert type(result["plain"]) is float
    assert result["plain"] == pytest.approx(third, abs=1e-6)


def test_evaluate_returns_structures_and_arrays_as_model_fn_has_them(tmp_path):
    estimator = iris.estimator(tmp_path, with_metrics(nested))
    result = estimator.evaluate(input_fn)
    check_nested(result, 0)
    check_nested(estimator.evaluate(input_fn), 0)
    rows, means = X.sum(0) / 3, X.mean(0)
    expected = {
        **{"loss": X.mean(), "plain": means[2]},
        **{"pair_0": means[0], "pair_1": means[1], "pair_2": 7.0},
        **{"list_0": means[1], "list_1": rows[0], "list_2": rows[1], "list_3": rows[2]},
        **{"rows_0": rows[0], "rows_1": rows[1], "rows_2": rows[2]},
    }
    assert scalars(estimator.eval_dir()) == pytest.approx(expected, abs=1e-6)
    assert tfbig.estimator.read_eval_metrics(estimator.eval_dir()) == {
        0: pytest.approx(expected, abs=1e-6)
    }


def test_a_dict_in_a_metric_of_tensorflow_1_stays_under_its_name(tmp_path):
    def metrics(features):
        value, update = v1.metrics.mean(features)
        return {"named": ({"b": value, "a": tf.constant(2.0)}, update)}

    result = iris.estimator(tmp_path, with_metrics(metrics)).evaluate(input_fn)
    assert set(result) == {"loss", "named", "global_step"}
    assert result["named"] == pytest.approx({"a": 2.0, "b": X.mean()}, abs=1e-6)


class Keeping(tfbig.estimator.Exporter):
    """Keeps the results that it receives."""

    name = "keeping"

    def __init__(self):
        self.results = []

    def export(self, estimator, export_path, checkpoint_path, eval_result, is_the_final_export):
        self.results.append(eval_result)


def test_train_and_evaluate_returns_structures_and_arrays_too(tmp_path):
    config = iris.config(eval_every_steps=2)
    estimator = iris.estimator(tmp_path, with_metrics(nested), config=config)
    keeping = Keeping()
    result, _ = tfbig.train_and_evaluate(
        estimator,
        tfbig.TrainSpec(lambda: input_fn().repeat(), max_steps=4),
        tfbig.EvalSpec(input_fn, exporters=keeping),
    )
    check_nested(result, 4)
    for step, seen in zip((2, 4), keeping.results, strict=True):
        check_nested(seen, step)
    found = tfbig.estimator.read_eval_metrics(estimator.eval_dir())
    assert set(found) == {2, 4}
    assert found[2]["pair_1"] == pytest.approx(X[:, 1].mean(), abs=1e-6)


# Summaries.


def images(features):
    del features
    return {
        "images": (v1.summary.image("drawn", tf.constant(PIXELS), max_outputs=2), tf.no_op()),
        "words": (v1.summary.text("said", tf.constant("hello")), tf.no_op()),
    }


def test_a_serialized_summary_is_returned_and_written_to_the_events(tmp_path):
    estimator = iris.estimator(tmp_path, with_metrics(images))
    result = estimator.evaluate(input_fn)
    assert set(result) == {"loss", "images", "words", "global_step"}
    assert type(result["images"]) is bytes
    values = v1.Summary.FromString(result["images"]).value
    assert [(v.tag, v.image.height, v.image.width) for v in values] == [
        ("drawn/image/0", 4, 5),
        ("drawn/image/1", 4, 5),
    ]
    written = events(estimator.eval_dir())
    assert set(written) == {"loss", "images/0", "images/1", "words/0"}
    for number in range(2):
        image = tf.io.decode_png(written[f"images/{number}"].image.encoded_image_string)
        np.testing.assert_array_equal(image[..., 0] > 0, PIXELS[number, ..., 0] > 0)
        assert written[f"images/{number}"].image.width == 5
    assert tf.make_ndarray(written["words/0"].tensor).item() == b"hello"
    assert set(scalars_of_last(estimator)) == {"loss"}


def scalars_of_last(estimator):
    return tfbig.estimator.read_eval_metrics(estimator.eval_dir())[0]


def test_train_and_evaluate_writes_a_summary_too(tmp_path):
    estimator = iris.estimator(tmp_path, with_metrics(images))
    result, _ = tfbig.train_and_evaluate(
        estimator, tfbig.TrainSpec(input_fn, max_steps=1), tfbig.EvalSpec(input_fn)
    )
    assert v1.Summary.FromString(result["words"]).value[0].tag == "said"
    assert set(events(estimator.eval_dir())) == {"loss", "images/0", "images/1", "words/0"}


def test_text_that_is_no_summary_is_returned_with_a_warning_and_not_written(tmp_path, caplog):
    metrics = lambda _: {"text": (tf.constant("hello"), tf.no_op())}  # noqa: E731
    estimator = iris.estimator(tmp_path, with_metrics(metrics))
    with caplog.at_level(logging.WARNING, "tfbig"):
        result = estimator.evaluate(input_fn)
    assert result["text"] == b"hello"
    assert "eval_metric_ops['text'] is text but no Summary, so it is not written" in caplog.messages
    assert set(events(estimator.eval_dir())) == {"loss"}


@pytest.mark.parametrize("name", ["loss", "global_step"])
def test_the_names_of_what_evaluate_returns_itself_are_refused(tmp_path, name):
    estimator = iris.estimator(tmp_path, with_metrics(lambda x: {name: v1.metrics.mean(x)}))
    with pytest.raises(UserError, match=f"^Metric with name `{name}` is not allowed in eval_metri"):
        estimator.evaluate(input_fn)
