"""TF1 model_fns and input_fns that run unchanged on TF 2.15's tf.estimator and on tfbig.

Nothing is imported that only one of the two has. What differs is the module that stands for
`tf.compat.v1`, and it is handed in: on TF 2.15 that module itself, with tfbig
`tfbig.compat.v1`. Both offer `layers` and `estimator`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn import datasets

tf1 = tf.compat.v1

BATCH = 32
STEPS = 200
MORE_STEPS = 20  # trained after the first steps, each on the same one batch
PREDICTIONS = 40
IRIS_FEATURES = ("SepalLength", "SepalWidth", "PetalLength", "PetalWidth")


def iris_dnn(v1: Any) -> Callable:
    """The custom estimator of TensorFlow's iris tutorial, with Adagrad."""
    layers, estimator = v1.layers, v1.estimator

    def model_fn(features, labels, mode, params):
        net = tf1.feature_column.input_layer(features, params["feature_columns"])
        for units in params["hidden_units"]:
            net = layers.dense(net, units=units, activation=tf.nn.relu)
        logits = layers.dense(net, params["n_classes"], activation=None)

        predicted_classes = tf.argmax(logits, 1)
        if mode == estimator.ModeKeys.PREDICT:
            predictions = {
                "class_ids": predicted_classes[:, tf.newaxis],
                "probabilities": tf.nn.softmax(logits),
                "logits": logits,
            }
            return estimator.EstimatorSpec(mode, predictions=predictions)

        loss = tf1.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
        accuracy = tf1.metrics.accuracy(labels=labels, predictions=predicted_classes, name="acc_op")
        tf1.summary.scalar("accuracy", accuracy[1])
        if mode == estimator.ModeKeys.EVAL:
            return estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops={"accuracy": accuracy})

        optimizer = tf1.train.AdagradOptimizer(learning_rate=0.1)
        train_op = optimizer.minimize(loss, global_step=tf1.train.get_global_step())
        return estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

    return model_fn


def digits_cnn(v1: Any) -> Callable:
    """The MNIST tutorial's CNN, narrower, on images of 8x8 pixels, with Adam and no dropout."""
    layers, estimator = v1.layers, v1.estimator

    def model_fn(features, labels, mode, params):
        input_layer = tf.reshape(features["x"], [-1, 8, 8, 1])
        conv1 = layers.conv2d(
            inputs=input_layer,
            filters=16,
            kernel_size=[5, 5],
            padding="same",
            activation=tf.nn.relu,
        )
        pool1 = layers.max_pooling2d(inputs=conv1, pool_size=[2, 2], strides=2)
        conv2 = layers.conv2d(
            inputs=pool1, filters=32, kernel_size=[5, 5], padding="same", activation=tf.nn.relu
        )
        pool2 = layers.max_pooling2d(inputs=conv2, pool_size=[2, 2], strides=2)
        pool2_flat = tf.reshape(pool2, [-1, 2 * 2 * 32])
        dense = layers.dense(inputs=pool2_flat, units=64, activation=tf.nn.relu)
        dropout = layers.dropout(
            inputs=dense,
            rate=params["dropout_rate"],
            training=mode == estimator.ModeKeys.TRAIN,
        )
        logits = layers.dense(inputs=dropout, units=10)

        predictions = {
            "classes": tf.argmax(input=logits, axis=1),
            "probabilities": tf.nn.softmax(logits, name="softmax_tensor"),
        }
        if mode == estimator.ModeKeys.PREDICT:
            return estimator.EstimatorSpec(mode=mode, predictions=predictions)

        loss = tf1.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
        if mode == estimator.ModeKeys.TRAIN:
            optimizer = tf1.train.AdamOptimizer(learning_rate=params["learning_rate"])
            train_op = optimizer.minimize(loss=loss, global_step=tf1.train.get_global_step())
            return estimator.EstimatorSpec(mode=mode, loss=loss, train_op=train_op)

        eval_metric_ops = {
            "accuracy": tf1.metrics.accuracy(labels=labels, predictions=predictions["classes"])
        }
        return estimator.EstimatorSpec(mode=mode, loss=loss, eval_metric_ops=eval_metric_ops)

    return model_fn


def digits_batch_norm(v1: Any) -> Callable:
    """What TF1 code did by hand: UPDATE_OPS, regularizers, a decayed rate, clipped gradients."""
    layers, estimator = v1.layers, v1.estimator

    def model_fn(features, labels, mode, params):
        training = mode == estimator.ModeKeys.TRAIN
        net = layers.flatten(tf.reshape(features["x"], [-1, 8, 8, 1]))
        with tf1.variable_scope("hidden"):
            net = layers.dense(
                net, 32, use_bias=False, kernel_regularizer=lambda w: 1e-3 * tf.nn.l2_loss(w)
            )
            net = layers.batch_normalization(net, momentum=0.9, training=training)
            net = tf.nn.relu(net)
        logits = layers.dense(net, 10, name="logits")
        classes = tf.argmax(logits, axis=1)
        if mode == estimator.ModeKeys.PREDICT:
            return estimator.EstimatorSpec(mode, predictions={"classes": classes})

        loss = tf1.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
        loss += tf1.losses.get_regularization_loss()
        if mode == estimator.ModeKeys.EVAL:
            metrics = {
                "accuracy": tf1.metrics.accuracy(labels, classes),
                "recall_of_0": tf1.metrics.recall(tf.equal(labels, 0), tf.equal(classes, 0)),
            }
            return estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)

        global_step = tf1.train.get_or_create_global_step()
        rate = tf1.train.exponential_decay(params["learning_rate"], global_step, 50, 0.5)
        optimizer = tf1.train.MomentumOptimizer(rate, 0.9)
        with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
            gradients, variables = zip(*optimizer.compute_gradients(loss), strict=True)
            gradients, _ = tf.clip_by_global_norm(gradients, 0.5)
            pairs = list(zip(gradients, variables, strict=True))
            train_op = optimizer.apply_gradients(pairs, global_step=global_step)
        return estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

    return model_fn


def iris_arrays() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The iris flowers, in an order that mixes the classes and is always the same."""
    iris = datasets.load_iris()
    order = np.arange(150) * 37 % 150
    columns = iris.data[order].astype(np.float32).T
    return dict(zip(IRIS_FEATURES, columns, strict=True)), iris.target[order].astype(np.int32)


def digits_arrays() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The handwritten digits in scikit-learn's order, as MNIST's tutorial has its images."""
    digits = datasets.load_digits()
    return {"x": (digits.data / 16).astype(np.float32)}, digits.target.astype(np.int32)


def iris_params() -> dict[str, Any]:
    columns = [tf.feature_column.numeric_column(key) for key in IRIS_FEATURES]
    return {"feature_columns": columns, "hidden_units": [10, 10], "n_classes": 3}


def digits_params() -> dict[str, Any]:
    return {"learning_rate": 1e-3, "dropout_rate": 0.0}


def batch_norm_params() -> dict[str, Any]:
    return {"learning_rate": 0.1}


@dataclasses.dataclass(frozen=True)
class Work:
    """A model_fn with its data and params: what is trained on both sides."""

    model_fn: Callable  # of the module that stands for tf.compat.v1
    arrays: Callable
    params: Callable

    def train_input_fn(self) -> tf.data.Dataset:
        """Batches in the data's own order, without end; they run on over the data's end."""
        return tf.data.Dataset.from_tensor_slices(self.arrays()).repeat().batch(BATCH)

    def one_batch_input_fn(self) -> tf.data.Dataset:
        """The first batch again and again: what is trained on does not depend on the step."""
        return tf.data.Dataset.from_tensor_slices(self.arrays()).take(BATCH).batch(BATCH).repeat()

    def eval_input_fn(self) -> tf.data.Dataset:
        """All examples in three batches of one size, so that no mean depends on weights."""
        features, labels = self.arrays()
        return tf.data.Dataset.from_tensor_slices((features, labels)).batch(len(labels) // 3)

    def predict_input_fn(self) -> tf.data.Dataset:
        features, _ = self.arrays()
        return tf.data.Dataset.from_tensor_slices(features).take(PREDICTIONS).batch(BATCH)


WORKS = {
    "iris_dnn": Work(iris_dnn, iris_arrays, iris_params),
    "digits_cnn": Work(digits_cnn, digits_arrays, digits_params),
    "digits_batch_norm": Work(digits_batch_norm, digits_arrays, batch_norm_params),
}
