"""model_fns of estimator style whose weights or gradients replicas divide; run in a process."""

import dataclasses
import pathlib

import keras
import numpy as np
import tensorflow as tf

import tfbig

X = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
Y = X.sum(1, keepdims=True)


def input_fn() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()


def eval_input_fn() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


def dense(units: int, name: str, **keywords) -> keras.layers.Layer:
    start = keras.initializers.GlorotUniform(seed=units)
    return keras.layers.Dense(units, name=name, kernel_initializer=start, **keywords)


def spec(mode: str, loss: tf.Tensor) -> tfbig.EstimatorSpec:
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.Adam(0.01))


def penalized(features, labels, mode):
    """Reads weights in conditions, in the penalty of the TensorFlow 1 collection, and twice."""
    hidden, last = dense(4, "hidden", activation="tanh"), dense(1, "last")
    frozen = dense(4, "frozen", trainable=False)
    outputs = last(frozen(hidden(features)))
    slope = tf.gradients(outputs, features)[0]
    penalty = tf.add_n([tf.nn.l2_loss(v) for v in tf.compat.v1.trainable_variables()])
    outputs += tf.cond(
        tf.reduce_sum(features) > 0, lambda: last(hidden(2 * features)), lambda: outputs
    )
    loss = keras.losses.mean_squared_error(labels, outputs)
    return spec(mode, loss + tf.reduce_sum(slope**2, -1) + penalty)


def functional(features, labels, mode):
    """Builds a functional model in each call, and has a variable that is no weight."""
    tf.Variable(0, name="number")
    model = keras.Sequential([keras.Input((5,)), dense(4, "hidden"), dense(1, "last")])
    return spec(mode, keras.losses.mean_squared_error(labels, model(features)))


def measured(features, labels, mode):
    """Has statistics over all replicas, and a metric of TensorFlow 1 in each mode."""
    norm = keras.layers.BatchNormalization(synchronized=True, name="norm")
    outputs = dense(1, "last")(norm(dense(4, "hidden")(features), training=True))
    found = spec(mode, keras.losses.mean_squared_error(labels, outputs))
    errors = tf.compat.v1.metrics.mean_absolute_error(labels, outputs)
    return dataclasses.replace(found, eval_metric_ops={"mae": errors})


def plain_variable(features, labels, mode):
    weight = tf.compat.v1.get_variable("weight", [5, 1])
    return spec(mode, keras.losses.mean_squared_error(labels, features @ weight))


def recomputed(features, labels, mode):
    layer = dense(1, "layer")
    layer.build((None, 5))
    outputs = tf.recompute_grad(lambda x: tf.matmul(x, layer.kernel))(features)
    return spec(mode, keras.losses.mean_squared_error(labels, outputs))


def rematerialized(features, labels, mode):
    outputs = keras.remat(dense(1, "layer"))(features)
    return spec(mode, keras.losses.mean_squared_error(labels, outputs))


def assigning(features, labels, mode):
    layer = dense(1, "layer")
    outputs = layer(features)
    layer.kernel.assign(layer.kernel * 0.5)
    return spec(mode, keras.losses.mean_squared_error(labels, outputs))


def train(model_fn, distribution: str, **config) -> tfbig.TrainResult:
    config = {"jit_compile": False, "tf_random_seed": 0, **config}
    return tfbig.train_distributed(
        model_fn,
        input_fn,
        strategy="mirrored",
        devices=2,
        max_steps=6,
        config=tfbig.RunConfig(model_distribution=distribution, **config),
    )


def losses() -> dict[str, dict[str, float]]:
    """The last losses by model_fn and distribution."""
    return {
        model_fn.__name__: {
            distribution: train(model_fn, distribution).loss
            for distribution in ("replicated", "owner_gradients", "owner_full")
        }
        for model_fn in (penalized, functional, measured)
    }


def refusals() -> dict[str, str]:
    """Why model_fns are refused."""
    found = {}
    for model_fn in (plain_variable, recomputed, rematerialized, assigning):
        try:
            train(model_fn, "owner_full")
        except tfbig.errors.UserError as error:
            found[model_fn.__name__] = str(error)
    return found


def with_metrics(features, labels, mode):
    """Of Keras layers, with a metric of TensorFlow 1, so that evaluations run its graph."""
    x = dense(7, "frozen", trainable=False)(dense(5, "hidden")(features))
    x = keras.layers.Dropout(0.1, seed=3)(x, training=mode == tfbig.ModeKeys.TRAIN)
    outputs = dense(1, "last")(x)
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions={"value": outputs})
    found = spec(mode, keras.losses.mean_squared_error(labels, outputs))
    if mode == tfbig.ModeKeys.EVAL:
        errors = tf.compat.v1.metrics.mean_absolute_error(labels, outputs)
        found = dataclasses.replace(found, eval_metric_ops={"mae": errors})
    return found


def estimators(folder: str) -> dict[str, list]:
    """Evaluations and predictions of an Estimator that is trained three times."""
    orders = {
        "replicated": ["replicated"] * 3,
        "sliced": ["owner_full"] * 3,
        "mixed": ["owner_full", "replicated", "owner_full"],
        "others": ["owner_gradients", "owner_full", "owner"],
    }
    found: dict[str, list] = {}
    for name, order in orders.items():
        found[name] = []
        for distribution in order:
            estimator = tfbig.Estimator(
                with_metrics,
                str(pathlib.Path(folder, name)),
                config=tfbig.RunConfig(
                    model_distribution=distribution, jit_compile=False, tf_random_seed=0
                ),
                strategy="mirrored",
                devices=2,
            )
            estimator.train(input_fn, steps=4)
            figures = estimator.evaluate(eval_input_fn)
            rows = estimator.predict(lambda: tf.data.Dataset.from_tensor_slices(X).batch(8))
            values = [float(row["value"][0]) for row in rows]
            found[name].append([float(figures["loss"]), float(figures["mae"]), *values])
    return found


class Checked(keras.layers.Layer):
    """Has operations with side effects, which TensorFlow runs one after the other."""

    def call(self, x):
        limit = tf.debugging.assert_less(tf.reduce_max(tf.abs(x)), 1e6)
        same = tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), x.shape)
        with tf.control_dependencies([limit]):
            return x + 0 * tf.stop_gradient(same)


def checked_losses() -> dict[str, float]:
    """The losses of a Keras model whose layers have assertions."""

    def build():
        norm = keras.layers.BatchNormalization(synchronized=True)
        model = keras.Sequential([keras.Input((5,)), dense(7, "a"), norm, Checked(), dense(1, "b")])
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    distributions = ("replicated", "owner_gradients", "owner_full")
    return {name: train(build, name, accumulation_steps=2).loss for name in distributions}
