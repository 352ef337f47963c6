"""Canned estimators that run unchanged on TF 2.15's tf.estimator and on tfbig.

What differs is the module that has the classes, and the module that has the optimizers: they are
handed in. Nothing is imported that only one side has.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

BATCH = 32
EXAMPLES = 256
STEPS = 40
PREDICTIONS = 40
JOBS = ["clerk", "cook", "driver", "nurse", "teacher"]
CLASSES = ["low", "middle", "high"]


def arrays() -> dict[str, np.ndarray]:
    """A table like that of a census, always the same, with labels of each kind."""
    random = np.random.RandomState(7)
    n = EXAMPLES
    age = random.randint(17, 80, n).astype(np.float32)
    hours = random.randint(5, 70, n).astype(np.float32)
    job = random.randint(0, len(JOBS), n)
    score = (age - 40) / 20 + (hours - 35) / 15 + 0.5 * job - 1 + random.normal(size=n) * 0.5
    return {
        "age": age / 50,
        "hours": hours / 50,
        "job": np.array(JOBS)[job],
        "weight": random.uniform(0.5, 2.0, n).astype(np.float32),
        "binary": (score > 0).astype(np.int32),
        "class_id": np.digitize(score, [-1.0, 1.0]).astype(np.int32),
        "class_name": np.array(CLASSES)[np.digitize(score, [-1.0, 1.0])],
        "number": score.astype(np.float32),
        "two_numbers": np.stack([score, -age / 50], 1).astype(np.float32),
        "count": np.maximum(np.round(score + 2), 0).astype(np.float32),
        "several": np.stack([score > 0, age > 40, hours > 30], 1).astype(np.int32),
    }


class Columns(NamedTuple):
    """The feature columns of the works."""

    numbers: list
    deep: list
    wide: list


def columns() -> Columns:
    """Numeric, embedding, indicator, bucketized, vocabulary and crossed columns."""
    fc = tf.feature_column
    age, hours = fc.numeric_column("age"), fc.numeric_column("hours")
    job = fc.categorical_column_with_vocabulary_list("job", JOBS)
    buckets = fc.bucketized_column(age, [0.5, 0.8, 1.1])
    crossed = fc.crossed_column([buckets, "job"], 20)
    return Columns(
        [age, hours],
        [age, hours, fc.embedding_column(job, 3), fc.indicator_column(job)],
        [hours, buckets, job, crossed],
    )


class Work(NamedTuple):
    """A canned estimator: how it is made, the name of its labels, and of its features."""

    make: Callable[[Any, Any, dict], Any]
    label: str
    features: tuple[str, ...] = ("age", "hours", "job", "weight")


def _dnn_binary(e, opt, common):
    return e.DNNClassifier([8, 4], columns().deep, optimizer=opt("Adagrad", 0.1), **common)


def _dnn_classes(e, opt, common):
    return e.DNNClassifier(
        [8], columns().deep, n_classes=3, label_vocabulary=CLASSES, weight_column="weight",
        optimizer=opt("SGD", 0.1), activation_fn=tf.nn.tanh, **common,
    )  # fmt: skip


def _dnn_numbers(e, opt, common):
    return e.DNNRegressor(
        [8], columns().numbers, label_dimension=2, optimizer=opt("Adam", 0.01), **common
    )


def _dnn_default(e, opt, common):
    return e.DNNRegressor([8], columns().numbers, batch_norm=True, **common)


def _linear_binary(e, opt, common):
    return e.LinearClassifier(columns().wide, weight_column="weight", **common)


def _linear_classes(e, opt, common):
    return e.LinearClassifier(columns().wide, n_classes=3, optimizer=opt("SGD", 0.05), **common)


def _linear_number(e, opt, common):
    return e.LinearRegressor(columns().wide, sparse_combiner="mean", **common)


def _combined_binary(e, opt, common):
    return e.DNNLinearCombinedClassifier(
        linear_feature_columns=columns().wide, dnn_feature_columns=columns().deep,
        dnn_hidden_units=[8, 4], **common,
    )  # fmt: skip


def _combined_number(e, opt, common):
    return e.DNNLinearCombinedRegressor(
        linear_feature_columns=columns().wide, linear_optimizer=opt("SGD", 0.01),
        dnn_feature_columns=columns().deep, dnn_optimizer=opt("Adam", 0.01),
        dnn_hidden_units=[8], **common,
    )  # fmt: skip


def _baseline_binary(e, opt, common):
    return e.BaselineClassifier(**common)


def _baseline_number(e, opt, common):
    return e.BaselineRegressor(**common)


WORKS = {
    "dnn_binary": Work(_dnn_binary, "binary"),
    "dnn_classes": Work(_dnn_classes, "class_name"),
    "dnn_numbers": Work(_dnn_numbers, "two_numbers"),
    "dnn_default": Work(_dnn_default, "number"),
    "linear_binary": Work(_linear_binary, "binary"),
    "linear_classes": Work(_linear_classes, "class_id"),
    "linear_number": Work(_linear_number, "number"),
    "combined_binary": Work(_combined_binary, "binary"),
    "combined_number": Work(_combined_number, "number"),
    "baseline_binary": Work(_baseline_binary, "binary", ("age",)),
    "baseline_number": Work(_baseline_number, "number", ("age",)),
}


def _poisson(e, opt, common):
    head = e.PoissonRegressionHead()
    return e.DNNEstimator(head, [8], columns().numbers, optimizer=opt("SGD", 0.05), **common)


def _several(e, opt, common):
    head = e.MultiLabelHead(n_classes=3, weight_column="weight", thresholds=[0.3])
    return e.DNNEstimator(head, [8], columns().deep, optimizer=opt("SGD", 0.1), **common)


def _logistic(e, opt, common):
    head = e.LogisticRegressionHead()
    return e.LinearEstimator(head, columns().wide, optimizer=opt("SGD", 0.1), **common)


def _binary_head(e, opt, common):
    head = e.BinaryClassHead(thresholds=[0.3, 0.7], weight_column="weight")
    return e.DNNLinearCombinedEstimator(
        head, linear_feature_columns=columns().wide, linear_optimizer=opt("SGD", 0.05),
        dnn_feature_columns=columns().deep, dnn_optimizer=opt("SGD", 0.05),
        dnn_hidden_units=[8], **common,
    )  # fmt: skip


def _many_heads(e, opt, common):
    head = e.MultiHead(
        [e.RegressionHead(name="number"), e.MultiClassHead(3, name="classes")], [0.5, 1.0]
    )
    return e.DNNEstimator(head, [8], columns().deep, optimizer=opt("SGD", 0.1), **common)


# Heads are made by hand only with the classes of TensorFlow 2.
HEADS = {
    "head_poisson": Work(_poisson, "count"),
    "head_several": Work(_several, "several"),
    "head_logistic": Work(_logistic, "binary"),
    "head_binary": Work(_binary_head, "binary"),
    "head_many": Work(_many_heads, "many"),
}


def labels_of(work: Work, table: dict[str, np.ndarray]) -> Any:
    """The labels of a work: an array, or a dict for several heads."""
    if work.label == "many":
        return {"number": table["number"], "classes": table["class_id"]}
    return table[work.label]


def optimizer_maker(optimizers: dict[str, Any], summed: bool) -> Callable:
    """Returns opt(kind, rate); for losses that are summed over a batch, SGD's rate is smaller."""
    scale = {"SGD": 1 / BATCH} if summed else {}
    return lambda kind, rate: lambda: optimizers[kind](rate * scale.get(kind, 1))


def train_input_fn(work: Work) -> Callable[[], tf.data.Dataset]:
    """Batches in the data's own order, without end."""
    table = arrays()
    data = ({name: table[name] for name in work.features}, labels_of(work, table))
    return lambda: tf.data.Dataset.from_tensor_slices(data).repeat().batch(BATCH)


def eval_input_fn(work: Work) -> Callable[[], tf.data.Dataset]:
    """All examples in batches of one size."""
    table = arrays()
    data = ({name: table[name] for name in work.features}, labels_of(work, table))
    return lambda: tf.data.Dataset.from_tensor_slices(data).batch(EXAMPLES // 4)


def predict_input_fn(work: Work) -> Callable[[], tf.data.Dataset]:
    """The features of the first examples."""
    table = arrays()
    data = {name: table[name] for name in work.features}
    return lambda: tf.data.Dataset.from_tensor_slices(data).take(PREDICTIONS).batch(BATCH)
