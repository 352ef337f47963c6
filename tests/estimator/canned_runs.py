"""Runs of canned estimators, each in its own process."""

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.estimator.data import canned_works as works
from tfbig.estimator.canned import tf1


def weighted_mean(e, opt, common):
    """A loss whose denominator is the sum of the weights."""
    return e.DNNClassifier(
        [8], works.columns().deep, n_classes=3, weight_column="weight",
        optimizer=opt("Adagrad", 0.1),
        loss_reduction=tf.compat.v1.losses.Reduction.MEAN, **common,
    )  # fmt: skip


def nonzero(e, opt, common):
    """A loss whose denominator is the number of weights that are not 0."""
    return e.LinearRegressor(
        works.columns().wide, weight_column="sometimes", optimizer=opt("Adagrad", 0.1),
        loss_reduction=tf.compat.v1.losses.Reduction.SUM_BY_NONZERO_WEIGHTS, **common,
    )  # fmt: skip


OWN = {
    "weighted_mean": works.Work(weighted_mean, "class_id"),
    "nonzero": works.Work(nonzero, "number", ("age", "hours", "job", "sometimes")),
}


def input_fn(work: works.Work):
    """Batches of 29: the last of each pass has 24."""
    table = works.arrays()
    table["sometimes"] = table["weight"] * (np.arange(works.EXAMPLES) % 3 > 0)
    data = ({name: table[name] for name in work.features}, works.labels_of(work, table))
    return lambda: tf.data.Dataset.from_tensor_slices(data).batch(29)


def train(side: str, name: str, model_dir: str, strategy: str, devices, accumulate=1) -> dict:
    """Trains three passes, and evaluates and predicts."""
    work = (works.WORKS | works.HEADS | OWN)[name]
    module = tf1 if side == "v1" else tfbig.estimator
    kinds = ("Adagrad", "Adam", "SGD")
    optimizers = {kind: getattr(keras.optimizers, kind) for kind in kinds}
    if side == "v1":
        optimizers = {
            "Adagrad": tf.compat.v1.train.AdagradOptimizer,
            "Adam": tf.compat.v1.train.AdamOptimizer,
            "SGD": tf.compat.v1.train.GradientDescentOptimizer,
        }
    config = tfbig.RunConfig(tf_random_seed=5, jit_compile=False, accumulation_steps=accumulate)
    common = {"model_dir": model_dir, "config": config, "strategy": strategy, "devices": devices}
    estimator = work.make(module, works.optimizer_maker(optimizers, side == "v1"), common)
    read = input_fn(work)
    estimator.train(lambda: read().repeat(3))
    names = [n for n in estimator.get_variable_names() if n.startswith(("dnn/", "linear/"))]
    return {
        "weights": {n: estimator.get_variable_value(n).tolist() for n in names},
        "evaluation": estimator.evaluate(read),
        "predictions": len(list(estimator.predict(read))),
    }
