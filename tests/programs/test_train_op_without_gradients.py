"""A train_op that uses no gradient: what it assigns from the batches is what is trained."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError

v1 = tf.compat.v1
X = np.random.RandomState(2).uniform(-1, 1, [11, 2]).astype("float32")
CENTERS = np.float32([[-0.5, 0.0], [0.5, 0.0]])
IDS = np.int32([0, 1, 1, 2, 2, 2, 0, 1, 2, 0])
PASSES = 2


def variable(name, value, dtype="float32", trainable=False):
    value = np.asarray(value, dtype)
    start = v1.constant_initializer(value)
    return v1.get_variable(name, value.shape, value.dtype, start, trainable=trainable)


def counted(*updates):
    return tf.group(*updates, v1.assign_add(v1.train.get_global_step(), 1))


def batches(data):
    """Batches of 4, 4 and less, twice."""
    return lambda: tf.data.Dataset.from_tensor_slices(data).batch(4).repeat(PASSES)


def once(data):
    return lambda: tf.data.Dataset.from_tensor_slices(data).batch(4)


def in_numpy(data):
    return [data[start : start + 4] for start in (0, 4, 8)] * PASSES


# Running statistics and k-means.


def statistics(features, labels, mode):
    """Trains running means and squares, and predicts what differs from the mean."""
    del labels
    mean, square = variable("mean", [0.0, 0.0]), variable("square", [1.0, 1.0])
    difference = features - mean
    loss = tf.reduce_mean(tf.square(difference))
    train_op = counted(
        v1.assign_add(mean, 0.5 * (tf.reduce_mean(features, 0) - mean)),
        v1.assign(square, 0.9 * square + 0.1 * tf.reduce_mean(tf.square(features), 0)),
    )
    return tfbig.EstimatorSpec(mode, loss=loss, predictions=difference, train_op=train_op)


def statistics_in_numpy():
    mean, square = np.zeros(2), np.ones(2)
    for batch in in_numpy(X):
        mean = mean + 0.5 * (batch.mean(0) - mean)
        square = 0.9 * square + 0.1 * (batch**2).mean(0)
    return {"mean": mean, "square": square, "global_step": 6}


def k_means(features, labels, mode):
    """Moves the nearest center towards each example; the centers are trainable variables."""
    del labels
    centers = variable("centers", CENTERS, trainable=True)
    differences = features[:, tf.newaxis] - centers
    distances = tf.reduce_sum(tf.square(differences), -1)
    nearest = tf.one_hot(tf.argmin(distances, 1), 2)[..., tf.newaxis]
    moved = centers + 0.5 * tf.reduce_mean(nearest * differences, 0)
    loss = tf.reduce_mean(tf.reduce_min(distances, 1))
    train_op = counted(v1.assign(centers, moved))
    ids = tf.argmin(distances, 1)
    return tfbig.EstimatorSpec(mode, loss=loss, predictions=ids, train_op=train_op)


def k_means_in_numpy():
    centers = CENTERS.astype(float)
    for batch in in_numpy(X):
        differences = batch[:, None] - centers
        nearest = np.eye(2)[(differences**2).sum(-1).argmin(1)][..., None]
        centers = centers + 0.5 * (nearest * differences).mean(0)
    return {"centers": centers, "global_step": 6}


MODELS = {
    "statistics": (statistics, statistics_in_numpy),
    "k-means": (k_means, k_means_in_numpy),
}


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_means_of_the_batch_are_assigned_as_in_numpy(name, micro_batches, tmp_path):
    model_fn, expected = MODELS[name]
    config = iris.config(accumulation_steps=micro_batches)
    iris.estimator(tmp_path, model_fn, config=config).train(batches(X))
    assert_close(iris.values(tmp_path), expected())


def test_evaluate_and_predict_see_the_assigned_values(tmp_path):
    estimator = iris.estimator(tmp_path, statistics).train(batches(X))
    mean = statistics_in_numpy()["mean"]
    result = estimator.evaluate(once(X))
    assert result == pytest.approx({"loss": ((X - mean) ** 2).mean(), "global_step": 6}, abs=1e-6)
    np.testing.assert_allclose(list(estimator.predict(once(X))), X - mean, atol=1e-6)
    centers = k_means_in_numpy()["centers"]
    estimator = iris.estimator(tmp_path / "k", k_means).train(batches(X))
    nearest = ((X[:, None] - centers) ** 2).sum(-1)
    assert estimator.evaluate(once(X))["loss"] == pytest.approx(nearest.min(1).mean(), abs=1e-6)
    assert list(estimator.predict(once(X))) == nearest.argmin(1).tolist()


def test_evaluate_and_predict_do_not_run_train_op(tmp_path):
    def model_fn(features, labels, mode):
        del labels
        w = variable("w", 1.0, trainable=True)
        optimizer = v1.train.GradientDescentOptimizer(0.5)
        train_op = optimizer.minimize(tf.reduce_mean(features * w), v1.train.get_global_step())
        y = features * w  # reads w again
        return tfbig.EstimatorSpec(mode, loss=tf.reduce_mean(y), predictions=y, train_op=train_op)

    ones = lambda: tf.data.Dataset.from_tensor_slices(np.ones(4, "float32")).batch(1)  # noqa: E731
    estimator = iris.estimator(tmp_path, model_fn).train(ones, steps=1)
    assert iris.values(tmp_path) == {"w": 0.5, "global_step": 1}
    assert list(estimator.predict(ones)) == [0.5] * 4
    assert estimator.evaluate(ones) == {"loss": 0.5, "global_step": 1}


def test_training_goes_on_from_the_values_of_the_checkpoint(tmp_path):
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        estimator = iris.estimator(tmp_path, k_means)
        estimator.train(lambda start=start: batches(X)().skip(start), max_steps=stop)
        assert iris.values(tmp_path)["global_step"] == stop
    assert_close(iris.values(tmp_path), k_means_in_numpy())


def train_here(name, folder, strategy, devices):
    """Returns the variables, and what evaluate and predict compute from them."""
    estimator = iris.estimator(folder, MODELS[name][0], strategy=strategy, devices=devices)
    estimator.train(batches(X))
    return {
        "variables": {name: value.tolist() for name, value in iris.values(folder).items()},
        "loss": estimator.evaluate(once(X))["loss"],
        "predictions": np.array(list(estimator.predict(once(X)))).tolist(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_two_devices_assign_what_one_does(name, tmp_path, in_process):
    one = train_here(name, str(tmp_path / "one"), "one_device", 1)
    two = in_process(train_here, name, str(tmp_path / "two"), "mirrored", 2)
    assert_close(two["variables"], MODELS[name][1]())
    assert_close(two["variables"], one["variables"])
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    np.testing.assert_allclose(two["predictions"], one["predictions"], atol=1e-6)


# Counts.


def counting(features, labels, mode):
    """Counts how often each id occurs, and predicts how frequent an example's id is."""
    del labels
    counts, whole = variable("counts", [1.0] * 3), variable("whole", [0] * 3, "int64")
    found = tf.reduce_sum(tf.one_hot(features, 3), 0)
    frequency = tf.gather(counts, features) / tf.reduce_sum(counts)
    loss = -tf.reduce_mean(frequency)
    train_op = counted(v1.assign_add(counts, found), whole.assign_add(tf.cast(found, tf.int64)))
    return tfbig.EstimatorSpec(mode, loss=loss, predictions=frequency, train_op=train_op)


def test_a_counting_model_counts(tmp_path):
    estimator = iris.estimator(tmp_path, counting).train(batches(IDS))
    values = iris.values(tmp_path)
    assert values["counts"].tolist() == [7, 7, 9]
    assert values["whole"].tolist() == [6, 6, 8]
    assert values["global_step"] == 6
    frequency = np.float32([7, 7, 9])[IDS] / 23
    assert estimator.evaluate(once(IDS))["loss"] == pytest.approx(-frequency.mean())
    np.testing.assert_allclose(list(estimator.predict(once(IDS))), frequency, rtol=1e-6)


def test_the_examples_of_a_smaller_last_batch_are_counted_once(tmp_path):
    def model_fn(features, labels, mode):
        del labels
        seen = variable("seen", 0.0)
        loss = tf.reduce_mean(features)
        train_op = counted(v1.assign_add(seen, tf.cast(tf.shape(features)[0], tf.float32)))
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)

    iris.estimator(tmp_path, model_fn).train(batches(X))
    assert iris.values(tmp_path) == {"seen": 22.0, "global_step": 6}


# The global step, and losses.


def test_global_step_counts_whether_or_not_train_op_does(tmp_path):
    def model_fn(features, labels, mode, params):
        del labels
        calls = variable("calls", 0, "int64")
        update = v1.assign_add(calls, 2)
        train_op = counted(update) if params["counts"] else update
        return tfbig.EstimatorSpec(mode, loss=tf.reduce_mean(features), train_op=train_op)

    for counts in (True, False):
        folder = tmp_path / str(counts)
        iris.estimator(folder, model_fn, params={"counts": counts}).train(batches(X))
        assert iris.values(folder) == {"calls": 12, "global_step": 6}


def test_a_train_op_that_only_counts_changes_nothing_else(tmp_path):
    def model_fn(features, labels, mode):
        del labels
        w = variable("w", 3.0, trainable=True)
        loss = tf.reduce_mean(features * w)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=counted())

    estimator = iris.estimator(tmp_path, model_fn).train(batches(X))
    assert iris.values(tmp_path) == {"w": 3.0, "global_step": 6}
    assert estimator.evaluate(once(X))["loss"] == pytest.approx(3 * X.mean(), abs=1e-6)


def test_the_loss_may_be_the_feature_tensor_itself(tmp_path):
    def model_fn(features, labels, mode):
        del labels
        w = variable("w", 1.0, trainable=True)
        train_op = v1.train.GradientDescentOptimizer(0.1).minimize(
            tf.square(w), v1.train.get_global_step()
        )
        if mode == tfbig.ModeKeys.PREDICT:
            return tfbig.EstimatorSpec(mode, predictions=features)
        return tfbig.EstimatorSpec(mode, loss=features, train_op=train_op)

    data = lambda: tf.data.Dataset.from_tensors([7.0]).repeat(3)  # noqa: E731
    estimator = iris.estimator(tmp_path, model_fn).train(data)
    assert iris.values(tmp_path) == {"w": pytest.approx(0.8**3), "global_step": 3}
    assert estimator.evaluate(data) == {"loss": 7.0, "global_step": 3}
    assert list(estimator.predict(data)) == [7.0] * 3


def test_a_weight_that_is_assigned_beside_gradients_of_others_is_refused(tmp_path):
    def model_fn(features, labels, mode):
        del labels
        w, mean = variable("w", 1.0, trainable=True), variable("mean", 0.0, trainable=True)
        loss = tf.reduce_mean(features * w)
        update = v1.assign(mean, tf.reduce_mean(features))
        with tf.control_dependencies([update]):
            train_op = v1.train.GradientDescentOptimizer(0.1).minimize(loss, var_list=[w])
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)

    with pytest.raises(UserError, match="^model_fn assigns to the weight 'mean' while it computes"):
        iris.estimator(tmp_path, model_fn).train(batches(X))
