"""The digits MLP as a TF1 model_fn, for both tf.estimator on TF 2.15 and tfbig."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def build(v1: Any) -> Callable:
    """Returns the model_fn, which uses the layers and estimator names of `v1`.

    Args:
        v1: `tf.compat.v1` of TF 2.15, or `tfbig.compat.v1`.
    """

    def model_fn(features, labels, mode):
        hidden = v1.layers.dense(features, 128, activation=tf.nn.relu)
        logits = v1.layers.dense(hidden, 10)
        classes = tf.argmax(logits, axis=1)
        if mode == v1.estimator.ModeKeys.PREDICT:
            return v1.estimator.EstimatorSpec(mode, predictions={"classes": classes})
        loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
        accuracy = tf.compat.v1.metrics.accuracy(labels=labels, predictions=classes)
        optimizer = tf.compat.v1.train.AdamOptimizer(1e-3)
        train_op = optimizer.minimize(loss, global_step=tf.compat.v1.train.get_global_step())
        return v1.estimator.EstimatorSpec(
            mode, loss=loss, train_op=train_op, eval_metric_ops={"accuracy": accuracy}
        )

    return model_fn
