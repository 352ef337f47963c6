"""model_fns on iris in TF1 and in Keras style, and the data and settings of Estimator tests."""

import functools
import inspect

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

import tfbig

v1 = tf.compat.v1

X, Y = (a.astype(t) for a, t in zip(load_iris(return_X_y=True), ("float32", "int32"), strict=True))
BATCH = 32
PARAMS = {"units": 8}


def dense(x, units, name, activation=None):
    with v1.variable_scope(name):
        kernel = v1.get_variable("kernel", [x.shape[-1], units])
        bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
    y = tf.matmul(x, kernel) + bias
    return activation(y) if activation else y


def spec_of(mode, logits, labels, train, **fields):
    predictions = {
        "class_ids": tf.argmax(logits, 1),
        "probabilities": tf.nn.softmax(logits, name="softmax_tensor"),
    }
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions=predictions, **fields)
    loss = v1.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
    if mode == tfbig.ModeKeys.EVAL:
        metrics = {"accuracy": v1.metrics.accuracy(labels, predictions["class_ids"])}
        return tfbig.EstimatorSpec(
            mode, loss=loss, predictions=predictions, eval_metric_ops=metrics, **fields
        )
    return tfbig.EstimatorSpec(mode, loss=loss, predictions=predictions, **train(loss), **fields)


def model_fn(features, labels, mode, params):
    """TF1 style, with Adam, whose slot variables have their own names."""
    logits = dense(dense(features["x"], params["units"], "hidden", tf.nn.tanh), 3, "logits")
    return spec_of(mode, logits, labels, adam)


def adam(loss):
    step = v1.train.get_global_step()
    return {"train_op": v1.train.AdamOptimizer(0.05).minimize(loss, global_step=step)}


def keras_model_fn(features, labels, mode, params):
    """Keras style."""
    hidden = keras.layers.Dense(params["units"], "tanh", name="hidden")(features["x"])
    logits = keras.layers.Dense(3, name="logits")(hidden)
    # A large epsilon: Adam divides by the gradient's size, and so magnifies the rounding of a
    # gradient that happens to be almost 0.
    make = functools.partial(keras.optimizers.Adam, 0.05, epsilon=1e-3)
    return spec_of(mode, logits, labels, lambda loss: {"optimizer": make()})


def input_fn():
    """Five batches per epoch; the last one is smaller."""
    return tf.data.Dataset.from_tensor_slices(({"x": X}, Y)).shuffle(150, seed=1).batch(BATCH)


def endless_input_fn():
    return input_fn().repeat()


def eval_input_fn():
    return tf.data.Dataset.from_tensor_slices(({"x": X}, Y)).batch(40)


def features_input_fn():
    return tf.data.Dataset.from_tensor_slices({"x": X}).batch(40)


def config(**fields) -> tfbig.RunConfig:
    """A RunConfig with a seed, and without XLA, which takes seconds to compile."""
    return tfbig.RunConfig(**{"tf_random_seed": 3, "jit_compile": False, **fields})


def estimator(model_dir, fn=model_fn, **keywords) -> tfbig.Estimator:
    if "params" in inspect.signature(fn).parameters:
        keywords = {"params": PARAMS, **keywords}
    keywords = {"config": config(), "strategy": "one_device", **keywords}
    return tfbig.Estimator(fn, model_dir, **keywords)


def values(model_dir) -> dict[str, np.ndarray]:
    """All variables of the newest checkpoint, as TensorFlow reads them."""
    reader = tf.train.load_checkpoint(str(model_dir))
    return {n: reader.get_tensor(n) for n in sorted(reader.get_variable_to_shape_map())}
