"""Estimator.predict before any training, and on data without end."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator import iris


def line(features, labels, mode):
    """Predictions 3 x + 1 before training; a step of it sets the slope to 3 - 0.5 * mean of x."""
    del labels
    slope = iris.v1.get_variable("slope", [], initializer=iris.v1.constant_initializer(3.0))
    offset = iris.v1.get_variable("offset", [], initializer=iris.v1.ones_initializer())
    y = features * slope + offset
    loss = tf.reduce_mean(y)
    train_op = iris.v1.train.GradientDescentOptimizer(0.5).minimize(
        loss, iris.v1.train.get_global_step(), var_list=[slope]
    )
    return tfbig.EstimatorSpec(mode, loss=loss, predictions=y, train_op=train_op)


def three():
    """Two batches, of which the last one is smaller."""
    return tf.data.Dataset.from_tensor_slices(np.float32([2.0, 4.0, 6.0])).batch(2)


def endless():
    return three().repeat()


def test_predict_before_training_yields_those_of_the_initial_values(tmp_path):
    estimator = iris.estimator(tmp_path, line)
    assert list(estimator.predict(three)) == [7.0, 13.0, 19.0]
    assert estimator.latest_checkpoint() is None
    estimator.train(three, steps=1)
    assert list(estimator.predict(three)) == [4.0, 7.0, 10.0]


def test_predict_before_training_in_keras_style_uses_initial_values_too(tmp_path):
    estimator = iris.estimator(tmp_path, iris.keras_model_fn)
    p = np.stack([one["probabilities"] for one in estimator.predict(iris.features_input_fn)])
    loss = estimator.evaluate(iris.eval_input_fn)["loss"]
    assert loss == pytest.approx(-np.log(p[range(150), iris.Y]).mean(), abs=1e-5)


def test_predict_before_training_uses_the_warm_start(tmp_path):
    iris.estimator(tmp_path / "old", line).train(three, steps=1)
    new = iris.estimator(tmp_path / "new", line, warm_start_from=str(tmp_path / "old"))
    assert list(new.predict(three)) == [4.0, 7.0, 10.0]


def test_next_on_the_predictions_of_a_repeated_dataset_gives_the_first_ones(tmp_path):
    estimator = iris.estimator(tmp_path, line).train(endless, steps=1)
    predictions = estimator.predict(endless)
    assert next(predictions) == 4.0
    assert list(itertools.islice(predictions, 6)) == [7.0, 10.0, 4.0, 7.0, 10.0, 4.0]
    predictions.close()
    names = [name for name, _ in zip("abcd", estimator.predict(endless), strict=False)]
    assert names == ["a", "b", "c", "d"]
    batches = estimator.predict(endless, yield_single_examples=False)
    assert [b.tolist() for b in itertools.islice(batches, 3)] == [[4.0, 7.0], [10.0], [4.0, 7.0]]
