"""Features that are SparseTensors: in training, evaluation and prediction, and in exports."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError
from tfbig.estimator import export

v1 = tf.compat.v1
N, WORDS, PASSES, RATE = 21, 20, 3, 0.1
RANDOM = np.random.RandomState(0)
# Ids of each example, of which some have none; the last batch has 5 examples instead of 8.
ROWS = [RANDOM.randint(0, WORDS, RANDOM.randint(0, 5)) for _ in range(N)]
Y = RANDOM.normal(size=[N, 1]).astype("float32")
COUNTS = np.array([np.bincount(row, minlength=WORDS) for row in ROWS], "float32")


def ids():
    places = [[i, j] for i, row in enumerate(ROWS) for j in range(len(row))]
    return tf.SparseTensor(places, np.concatenate(ROWS), [N, 5])


def once():
    return tf.data.Dataset.from_tensor_slices(({"ids": ids()}, Y)).batch(8)


def batches():
    return once().repeat(PASSES)


def sums_of_ids(features, labels, mode):
    """The sum of a table's entries at the ids of each example."""
    assert isinstance(features["ids"], tf.SparseTensor)
    start = v1.constant_initializer(0.1)
    table = v1.get_variable("table", [WORDS, 1], initializer=start)
    y = tf.nn.safe_embedding_lookup_sparse(table, features["ids"], combiner="sum")
    return spec_of(mode, y, labels)


def spec_of(mode, y, labels):
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions={"y": y})
    loss = tf.reduce_mean(tf.square(y - labels))
    optimizer = v1.train.GradientDescentOptimizer(RATE)
    return tfbig.EstimatorSpec(
        mode,
        loss=loss,
        train_op=optimizer.minimize(loss, v1.train.get_global_step()),
        eval_metric_ops={"mean": v1.metrics.mean(y)},
    )


def trained_in_numpy(x, y, start):
    """The weights of a linear model after gradient descent on the same batches."""
    w = np.full([x.shape[1], 1], start)
    for _ in range(PASSES):
        for first in range(0, len(x), 8):
            part, target = x[first : first + 8], y[first : first + 8]
            w = w - RATE * 2 * part.T @ (part @ w - target) / len(part)
    return w


def train_and_use(folder, strategy, devices):
    estimator = iris.estimator(folder, sums_of_ids, strategy=strategy, devices=devices)
    estimator.train(batches)
    return {
        "table": estimator.get_variable_value("table").tolist(),
        "result": estimator.evaluate(once),
        "y": [one["y"].tolist() for one in estimator.predict(once)],
    }


def check(found):
    table = trained_in_numpy(COUNTS, Y, 0.1)
    y = COUNTS @ table
    np.testing.assert_allclose(found["table"], table, atol=1e-6)
    np.testing.assert_allclose(found["y"], y, atol=1e-6)
    expected = {"loss": ((y - Y) ** 2).mean(), "mean": y.mean(), "global_step": 9}
    assert found["result"] == pytest.approx(expected, abs=1e-6)


def test_weights_metrics_and_predictions_are_those_of_numpy(tmp_path):
    assert any(len(row) == 0 for row in ROWS)
    check(train_and_use(str(tmp_path), "one_device", 1))


@pytest.mark.slow
def test_two_devices_compute_what_one_does(tmp_path, in_process):
    check(in_process(train_and_use, str(tmp_path), "mirrored", 2))


def test_micro_batches_compute_what_whole_batches_do(tmp_path):
    config = iris.config(accumulation_steps=2)
    estimator = iris.estimator(tmp_path, sums_of_ids, config=config).train(batches)
    expected = trained_in_numpy(COUNTS, Y, 0.1)
    np.testing.assert_allclose(estimator.get_variable_value("table"), expected, atol=1e-6)


def test_features_may_be_one_sparse_tensor_without_labels(tmp_path):
    def model_fn(features, labels, mode):
        assert labels is None
        return sums_of_ids({"ids": features}, 1.0, mode)

    data = lambda: once().map(lambda x, _: x["ids"])  # noqa: E731
    estimator = iris.estimator(tmp_path, model_fn).train(lambda: data().repeat(PASSES))
    table = trained_in_numpy(COUNTS, np.ones_like(Y), 0.1)
    np.testing.assert_allclose(estimator.get_variable_value("table"), table, atol=1e-6)
    y = COUNTS @ table
    assert estimator.evaluate(data)["loss"] == pytest.approx(((y - 1) ** 2).mean(), abs=1e-6)
    np.testing.assert_allclose([one["y"] for one in estimator.predict(data)], y, atol=1e-6)


def test_labels_may_be_sparse_and_features_may_have_rank_3(tmp_path):
    values = np.zeros([N, 3, 2], "float32")
    values[::2, 1, 0], values[1::3, 2, 1] = 0.5, -1.5
    target = np.zeros([N, 4], "float32")
    target[::4, 3] = 2.0

    def model_fn(features, labels, mode):
        assert (features.shape.rank, labels.shape.rank) == (3, 2)
        w = v1.get_variable("w", [6, 1], initializer=v1.constant_initializer(0.1))
        y = tf.matmul(tf.reshape(tf.sparse.to_dense(features), [-1, 6]), w)
        return spec_of(mode, y, tf.reshape(tf.sparse.reduce_sum(labels, 1), [-1, 1]))

    def data():
        both = tf.sparse.from_dense(values), tf.sparse.from_dense(target)
        return tf.data.Dataset.from_tensor_slices(both).batch(8).repeat(PASSES)

    estimator = iris.estimator(tmp_path, model_fn).train(data)
    expected = trained_in_numpy(values.reshape([N, 6]), target.sum(1, keepdims=True), 0.1)
    np.testing.assert_allclose(estimator.get_variable_value("w"), expected, atol=1e-6)


def test_train_distributed_takes_them_for_a_model_fn_and_evaluates(tmp_path):
    config = iris.config(eval_every_steps=9)
    result = tfbig.train_distributed(
        sums_of_ids, batches, eval_input_fn=once, config=config, model_dir=str(tmp_path)
    )
    table = trained_in_numpy(COUNTS, Y, 0.1)
    np.testing.assert_allclose(iris.values(tmp_path)["table"], table, atol=1e-6)
    loss = ((COUNTS @ table - Y) ** 2).mean()
    assert result.metrics["loss"] == pytest.approx(loss, abs=1e-6)


def test_a_keras_builder_refuses_them():
    def build():
        raise AssertionError("the data is checked first")

    with pytest.raises(UserError) as caught:
        tfbig.train_distributed(build, once, config=iris.config(), max_steps=1)
    assert "component 0/ids is a SparseTensorSpec, which cannot be stacked; make it dense" in str(
        caught.value
    )


# Categorical columns: as strings, and in exports.

NAMES = ["a", "b", "c"]
GIVEN = [["a"], ["b", "a"], [], ["c", "c"], ["b"], ["zebra"], ["a", "c"], ["b"], ["c"], ["a"]]
ONE_HOT = np.array([[row.count(name) for name in NAMES] for row in GIVEN], "float32")
TARGET = np.arange(10, dtype="float32").reshape([10, 1]) / 10


def columns():
    f = tf.feature_column
    return [f.indicator_column(f.categorical_column_with_vocabulary_list("name", NAMES))]


def examples(rows, targets=None):
    """Serialized tf.Examples."""
    found = []
    for number, row in enumerate(rows):
        example = tf.train.Example()
        example.features.feature["name"].bytes_list.value.extend(word.encode() for word in row)
        if targets is not None:
            example.features.feature["y"].float_list.value.extend(targets[number])
        found.append(example.SerializeToString())
    return found


def parsed():
    spec = tf.feature_column.make_parse_example_spec(columns())

    def parse(serialized):
        found = tf.io.parse_example(serialized, {**spec, "y": tf.io.FixedLenFeature([1], "float")})
        return {"name": found["name"]}, found["y"]

    return tf.data.Dataset.from_tensor_slices(examples(GIVEN, TARGET)).batch(8).map(parse)


def names_model_fn(features, labels, mode):
    x = v1.feature_column.input_layer(features, columns())
    w = v1.get_variable("w", [3, 1], initializer=v1.constant_initializer(0.1))
    return spec_of(mode, tf.matmul(x, w), labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An Estimator of categorical columns, and what it predicts."""
    folder = tmp_path_factory.mktemp("trained")
    estimator = iris.estimator(folder, names_model_fn).train(lambda: parsed().repeat(PASSES))
    return estimator, [one["y"] for one in estimator.predict(parsed)]


def test_categorical_columns_of_strings_train_as_one_hot_vectors_in_numpy(trained):
    estimator, y = trained
    w = trained_in_numpy(ONE_HOT, TARGET, 0.1)
    np.testing.assert_allclose(estimator.get_variable_value("w"), w, atol=1e-6)
    np.testing.assert_allclose(y, ONE_HOT @ w, atol=1e-6)


def parsing_receiver():
    spec = tf.feature_column.make_parse_example_spec(columns())
    assert isinstance(spec["name"], tf.io.VarLenFeature)
    return export.build_parsing_serving_input_receiver_fn(spec)()


def own_receiver():
    serialized = v1.placeholder(tf.string, [None], name="serialized")
    spec = tf.feature_column.make_parse_example_spec(columns())
    features = tf.io.parse_example(serialized, spec)
    return export.ServingInputReceiver(features, {"examples": serialized})


@pytest.mark.parametrize("receiver_fn", [parsing_receiver, own_receiver])
def test_an_export_parses_examples_and_predicts_as_predict_does(trained, tmp_path, receiver_fn):
    estimator, y = trained
    folder = estimator.export_saved_model(tmp_path, receiver_fn)
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    assert list(serve.structured_input_signature[1]) == ["examples"]
    for count in (10, 1, 3):
        found = serve(examples=tf.constant(examples(GIVEN[:count])))
        np.testing.assert_allclose(found["y"], y[:count], atol=1e-6)
    np.testing.assert_array_equal(serve(examples=tf.constant(examples([[]])))["y"], [[0.0]])


def test_an_export_may_take_the_parts_of_a_sparse_tensor(trained, tmp_path):
    estimator, y = trained

    def receiver_fn():
        parts = {
            "indices": v1.placeholder(tf.int64, [None, 2]),
            "values": v1.placeholder(tf.string, [None]),
            "dense_shape": v1.placeholder(tf.int64, [2]),
        }
        return export.ServingInputReceiver({"name": tf.SparseTensor(**parts)}, parts)

    folder = estimator.export_saved_model(tmp_path, receiver_fn)
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    sparse = tf.ragged.constant(GIVEN, dtype=tf.string).to_sparse()
    found = serve(indices=sparse.indices, values=sparse.values, dense_shape=sparse.dense_shape)
    np.testing.assert_allclose(found["y"], y, atol=1e-6)
