"""Trains a model_fn of TF1's layers, to be called in processes of their own."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import tfbig
from tfbig.compat.v1 import layers

v1 = tf.compat.v1


def model_fn(features, labels, mode):
    training = mode == tfbig.ModeKeys.TRAIN
    l2 = tf.keras.regularizers.L2(1e-3)
    net = tf.reshape(features, [-1, 8, 8, 1])
    net = layers.conv2d(net, 8, 3, activation=tf.nn.relu, kernel_regularizer=l2)
    net = layers.max_pooling2d(net, 2, 2)
    net = layers.dense(layers.flatten(net), 32, activation=tf.nn.relu)
    net = layers.dropout(net, 0.3, training=training)
    logits = layers.dense(net, 10, name="logits", kernel_regularizer=l2)
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions={"logits": logits})
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    loss += v1.losses.get_regularization_loss()
    metrics = {"accuracy": v1.metrics.accuracy(labels, tf.argmax(logits, 1))}
    step = v1.train.get_or_create_global_step()
    train_op = v1.train.GradientDescentOptimizer(0.1).minimize(loss, step)
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op, eval_metric_ops=metrics)


def normalized_model_fn(features, labels, mode, params):
    """Batch normalization, with UPDATE_OPS run or not."""
    training = mode == tfbig.ModeKeys.TRAIN
    net = tf.cast(features, tf.float32)
    net = layers.batch_normalization(net, momentum=0.8, training=training)
    logits = layers.dense(net, 10)
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    step = v1.train.get_or_create_global_step()
    updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS) if params["updates"] else []
    with tf.control_dependencies(updates):
        train_op = v1.train.GradientDescentOptimizer(0.1).minimize(loss, step)
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


def constrained_model_fn(features, labels, mode):
    logits = layers.dense(
        features, 10, kernel_constraint=lambda w: tf.clip_by_value(w, -0.05, 0.05)
    )
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    step = v1.train.get_or_create_global_step()
    train_op = v1.train.GradientDescentOptimizer(1.0).minimize(loss, step)
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


def digits():
    images, labels = load_digits(return_X_y=True)
    images, labels = (images[:200] / 16).astype("float32"), labels[:200].astype("int32")
    return tf.data.Dataset.from_tensor_slices((images, labels)).repeat().batch(50)


def train_in(folder: str, name: str, steps: int, devices: int, params: dict | None = None) -> dict:
    """The variables after some steps, by name.

    Args:
        folder: the model_dir.
        name: of a model_fn of this module.
    """
    estimator = tfbig.Estimator(
        globals()[name],
        folder,
        tfbig.RunConfig(tf_random_seed=3),
        params,
        strategy="mirrored" if devices > 1 else "one_device",
        devices=devices,
    )
    estimator.train(digits, steps=steps)
    names = estimator.get_variable_names()
    return {n: np.asarray(estimator.get_variable_value(n)).tolist() for n in names}
