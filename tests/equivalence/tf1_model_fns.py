"""Estimator-style model_fns of TensorFlow 1 code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tfbig

v1 = tf.compat.v1


def momentum(rate: Any):
    return v1.train.MomentumOptimizer(rate, 0.9)


def adam(rate: Any):
    return v1.train.AdamOptimizer(rate)


def ftrl(rate: Any):
    return v1.train.FtrlOptimizer(rate, l1_regularization_strength=1e-3)


def _start(shape: list[int], seed: int):
    values = np.random.RandomState(seed).uniform(-0.3, 0.3, shape).astype("float32")
    return v1.constant_initializer(values)  # random ones draw otherwise in a session


def _dense(x: tf.Tensor, units: int, name: str, seed: int) -> tf.Tensor:
    with v1.variable_scope(name):
        shape = [int(x.shape[-1]), units]
        kernel = v1.get_variable(
            "kernel",
            shape,
            initializer=_start(shape, seed),
            regularizer=lambda w: 1e-3 * tf.nn.l2_loss(w),
        )
        bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
        return tf.matmul(x, kernel) + bias


def _normalized(x: tf.Tensor, training: bool) -> tf.Tensor:
    with v1.variable_scope("norm"):
        size = [int(x.shape[-1])]
        gamma = v1.get_variable("gamma", size, initializer=v1.ones_initializer())
        mean, variance = (
            v1.get_variable(f"moving_{name}", size, trainable=False, initializer=start)
            for name, start in (
                ("mean", v1.zeros_initializer()),
                ("variance", v1.ones_initializer()),
            )
        )
        if not training:
            return (x - mean) * tf.math.rsqrt(variance + 1e-3) * gamma
        now = tf.nn.moments(x, [0])
        for kept, value in zip((mean, variance), now, strict=True):
            update = v1.assign_sub(kept, 0.2 * (kept - value))
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)
        return (x - now[0]) * tf.math.rsqrt(now[1] + 1e-3) * gamma


class TF1ModelFn:
    """A classifier of the digits: model_fn(features, labels, mode).

    Args:
        optimizer: from a learning rate's tensor to a tf.compat.v1 optimizer.
        rate: where it begins; it decays with the global step.
        clip: the largest global norm of a gradient, or None.
        normalize: with batch normalisation.
    """

    def __init__(
        self,
        optimizer: Callable[[Any], Any],
        rate: float,
        *,
        clip: float | None = None,
        normalize: bool = False,
    ):
        self._optimizer, self._rate = optimizer, rate
        self._clip, self._normalize = clip, normalize

    def __call__(self, features, labels, mode):
        x = _dense(features, 24, "hidden", seed=1)
        if self._normalize:
            x = _normalized(x, mode == tfbig.ModeKeys.TRAIN)
        logits = _dense(tf.nn.relu(x), 10, "logits", seed=2)
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        loss += v1.losses.get_regularization_loss()
        if mode == tfbig.ModeKeys.EVAL:
            chosen, odd = tf.argmax(logits, 1), labels % 2
            score = tf.reduce_sum(tf.nn.softmax(logits)[:, 1::2], 1)
            metrics = {
                "accuracy": v1.metrics.accuracy(labels, chosen),
                "auc": v1.metrics.auc(odd, score),
                "recall": v1.metrics.recall(odd, score > 0.5),
                "per_class": v1.metrics.mean_per_class_accuracy(labels, chosen, 10),
                "rmse": v1.metrics.root_mean_squared_error(tf.cast(odd, tf.float32), score),
            }
            return tfbig.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=self._train_op(loss))

    def _train_op(self, loss):
        step = v1.train.get_global_step()
        optimizer = self._optimizer(v1.train.exponential_decay(self._rate, step, 5, 0.9))
        with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            if self._clip is None and not self._normalize:
                return optimizer.minimize(loss, global_step=step)
            gradients, variables = zip(*optimizer.compute_gradients(loss), strict=True)
            for gradient in gradients:
                v1.add_to_collection("taken", gradient)  # for the reference, which feeds them
            if self._clip is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, self._clip)
            return optimizer.apply_gradients(zip(gradients, variables, strict=True), step)
