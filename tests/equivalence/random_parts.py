"""The layers, losses and metrics that random models are made of, by name."""

import keras
from keras import layers, ops

import tfbig


class Adds(layers.Layer):
    """Adds a loss of its inputs, of the shape that its kind says.

    Args:
        kind: "mean" (a scalar, the mean over the batch), "sum" (a scalar, the sum over it), "rows"
            ([batch]), "column" ([batch, 1]), "all" (as its inputs), or "weights" (a scalar of its
            own weights alone).
    """

    def __init__(self, kind: str, **keywords):
        super().__init__(**keywords)
        self.kind, self.supports_masking = kind, True

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        y = x * self.scale
        square = ops.square(y)
        axes = list(range(1, len(y.shape)))
        self.add_loss(
            0.1
            * {
                "mean": lambda: ops.mean(square),
                "sum": lambda: ops.sum(square),
                "rows": lambda: ops.mean(square, axis=axes),
                "column": lambda: ops.reshape(ops.mean(square, axis=axes), [-1, 1]),
                "all": lambda: square,
                "weights": lambda: ops.sum(ops.square(self.scale)),
            }[self.kind]()
        )
        return y


class Unused(layers.Layer):
    """Has a weight that the loss does not depend on."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.supports_masking = True

    def build(self, shape):
        self.unused = self.add_weight(shape=[3], name="unused")

    def call(self, x):
        return x


class Twice(layers.Layer):
    """Calls one Dense layer twice."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.supports_masking = True
        self.shared = layers.Dense(4, activation="tanh")

    def build(self, shape):
        self.first = layers.Dense(4)
        self.first.build(shape)
        self.shared.build((*shape[:-1], 4))

    def call(self, x):
        return self.shared(self.shared(self.first(x)))


def dense(**keywords) -> layers.Layer:
    return layers.Dense(4, **{"activation": "tanh", **keywords})


# Layers of vectors and of series alike, from the simplest on.
LAYERS = {
    "dense": dense,
    "relu": lambda: dense(activation="relu"),
    "kernel_l2": lambda: dense(kernel_regularizer=keras.regularizers.L2(0.1)),
    "activity_l2": lambda: dense(activity_regularizer=keras.regularizers.L2(0.1)),
    "activity_layer": lambda: layers.ActivityRegularization(l1=0.05),
    "frozen": lambda: dense(trainable=False),
    "unused": Unused,
    "twice": Twice,
    "layer_norm": layers.LayerNormalization,
    "dropout": lambda: tfbig.layers.Dropout(0.3, seed=5),
    "adds_mean": lambda: Adds("mean"),
    "adds_sum": lambda: Adds("sum"),
    "adds_rows": lambda: Adds("rows"),
    "adds_column": lambda: Adds("column"),
    "adds_all": lambda: Adds("all"),
    "adds_weights": lambda: Adds("weights"),
    "bfloat16": lambda: dense(dtype="mixed_bfloat16"),
}
# Those that add a loss or a regulariser.
WITH_LOSSES = (
    *(name for name in LAYERS if name.startswith("adds_")),
    *("kernel_l2", "activity_l2", "activity_layer"),
)
# Those that mix the examples of a batch, over all replicas; vectors only.
MIXING_LAYERS = {"batch_norm": lambda: layers.BatchNormalization(momentum=0.8, synchronized=True)}
SERIES_LAYERS = {
    "gru": lambda: layers.GRU(3, return_sequences=True),
    "lstm": lambda: layers.LSTM(3, return_sequences=True),
    "conv": lambda: layers.Conv1D(3, 2, padding="same"),
}
POOLS = {
    "mean": layers.GlobalAveragePooling1D,
    "max": layers.GlobalMaxPooling1D,
    "gru": lambda: layers.GRU(3),
    "flatten": layers.Flatten,
}


def error_of_examples(labels, outputs):
    """A custom loss function: one value for each example (and time step)."""
    return ops.mean(ops.log(1 + ops.square(labels - outputs)), axis=-1)


def error_of_batch(labels, outputs):
    """A custom loss function that gives one number for the batch: the mean of its examples."""
    return ops.mean(ops.square(labels - outputs))


def sum_of_batch(labels, outputs):
    """A custom loss function that gives one number for the batch, and no mean."""
    return 0.1 * ops.sum(ops.square(labels - outputs))


class OwnLoss(keras.losses.Loss):
    """A custom loss whose `call` gives one value for each example (and time step)."""

    def call(self, labels, outputs):
        return ops.mean(ops.abs(labels - outputs) ** 3, axis=-1)


class CallsItself(keras.losses.Loss):
    """A custom loss with its own `__call__`, which gives one number for the batch."""

    def __call__(self, labels, outputs, sample_weight=None):
        return ops.mean(ops.square(labels - outputs))


class Of(keras.losses.Loss):
    """A loss by a function, with a reduction that can be chosen."""

    def __init__(self, function, reduction):
        super().__init__(name=function.__name__, reduction=reduction)
        self.fn = function  # of which warnings give the name

    def call(self, labels, outputs):
        return self.fn(labels, outputs)


def _function(function):
    def make(reduction):
        # What compile(loss=function) makes of it has this reduction.
        return function if reduction == "sum_over_batch_size" else Of(function, reduction)

    return make


def _keras(name, **arguments):
    def make(reduction):
        return getattr(keras.losses, name)(reduction=reduction, **arguments)

    return make


LOSSES = {
    "numbers": {
        "mse": _keras("MeanSquaredError"),
        "huber": _keras("Huber", delta=0.5),
        "mae": _keras("MeanAbsoluteError"),
        "log_cosh": _keras("LogCosh"),
        "cosine": _keras("CosineSimilarity"),
        "function": _function(error_of_examples),
        "class": lambda reduction: OwnLoss(reduction=reduction),
        "batch_mean": _function(error_of_batch),
        "batch_sum": _function(sum_of_batch),
        "calls_itself": lambda reduction: CallsItself(reduction=reduction),
    },
    "classes": {
        "sparse": _keras("SparseCategoricalCrossentropy", from_logits=True),
        "ignoring": _keras("SparseCategoricalCrossentropy", from_logits=True, ignore_class=0),
    },
    "one_hot": {
        "categorical": _keras("CategoricalCrossentropy", from_logits=True),
        "focal": _keras("CategoricalFocalCrossentropy", from_logits=True),
    },
    "binary": {
        "binary": _keras("BinaryCrossentropy"),
        "squared_hinge": _keras("SquaredHinge"),
    },
}


class Kept(keras.metrics.Metric):
    """A metric whose state is no sum over the examples.

    Args:
        kind: "max" (the largest error), "last" (the last batch's error), or "running" (an average
            of the batches' errors, kept as such).
    """

    def __init__(self, kind: str, name: str | None = None, **keywords):
        super().__init__(name=name or f"kept_{kind}", **keywords)
        self.kind = kind
        self.kept = self.add_weight(name="kept", initializer="zeros")

    def update_state(self, labels, outputs, sample_weight=None):
        error = ops.abs(ops.reshape(labels, [-1]) - ops.reshape(outputs, [-1]))
        if self.kind == "max":
            self.kept.assign(ops.maximum(self.kept, ops.max(error)))
        elif self.kind == "last":
            self.kept.assign(ops.mean(error))
        else:
            self.kept.assign(0.5 * self.kept + 0.5 * ops.mean(error))

    def result(self):
        return self.kept


def batch_error(labels, outputs):
    """A metric function that gives one number for a batch, and no mean of its examples."""
    return ops.sqrt(ops.mean(ops.square(labels - outputs)))


def example_error(labels, outputs):
    """A metric function that gives one number for each example (and time step)."""
    return ops.max(ops.abs(labels - outputs), axis=-1)


class Argmax(keras.metrics.MeanIoU):
    """MeanIoU of the most probable class."""

    def update_state(self, labels, outputs, sample_weight=None):
        labels = ops.reshape(labels, [-1])
        return super().update_state(labels, ops.reshape(ops.argmax(outputs, -1), [-1]))


_kept = {f"kept_{kind}": lambda kind=kind: Kept(kind) for kind in ("max", "last", "running")}
# Metrics by what the labels are; those of PLAIN treat series too, and take weights.
PLAIN = {
    "numbers": {
        "mae": lambda: "mae",
        "mse": lambda: "mse",
        "rmse": keras.metrics.RootMeanSquaredError,
        "cosine": keras.metrics.CosineSimilarity,
        "function": lambda: example_error,
    },
    "classes": {
        "accuracy": lambda: "accuracy",
        "top_2": lambda: keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2"),
    },
    "one_hot": {"accuracy": lambda: "accuracy"},
    "binary": {"accuracy": lambda: "accuracy", "mse": lambda: "mse"},
}
METRICS = {
    "numbers": {"r2": keras.metrics.R2Score, "batch_error": lambda: batch_error, **_kept},
    "classes": {"mean_iou": lambda: Argmax(3, name="mean_iou")},
    "one_hot": {
        "f1": lambda: keras.metrics.F1Score(average="macro", name="f1"),
        "f1_each": lambda: keras.metrics.F1Score(average=None, name="f1_each"),
        "overlap": lambda: keras.metrics.OneHotMeanIoU(3, name="overlap"),
    },
    "binary": {
        "auc": lambda: keras.metrics.AUC(num_thresholds=20, name="auc"),
        "precision": lambda: keras.metrics.Precision(name="precision"),
        "recall_at_2": lambda: keras.metrics.Recall(thresholds=[0.3, 0.6], name="recall"),
        "specificity": lambda: keras.metrics.SpecificityAtSensitivity(0.5, 20, name="specificity"),
        **_kept,
    },
}
# What is no sum over examples: metrics that tfbig may refuse, losses that it may warn about.
NO_SUMS = (*_kept, "batch_error")
BATCH_MEANS = ("batch_mean", "calls_itself")
BATCH_LOSSES = (*BATCH_MEANS, "batch_sum")
BATCH_LAYERS = ("adds_mean", "adds_sum")
NAMES = {  # those whose name is another than ours
    "batch_mean": "error_of_batch",
    "batch_sum": "sum_of_batch",
    "calls_itself": "CallsItself",
}


def optimizer(description: dict) -> keras.optimizers.Optimizer:
    """An optimizer by its description: name, rate and other arguments."""
    arguments = {k: v for k, v in description.items() if k not in ("name", "schedule")}
    rate = 0.05 if description["name"] != "Adam" else 0.01
    if description.get("schedule"):
        rate = keras.optimizers.schedules.ExponentialDecay(rate, 2, 0.5)
    if description["name"] == "Adam":
        arguments["epsilon"] = 1e-2  # or Adam would enlarge rounding
    return getattr(keras.optimizers, description["name"])(rate, **arguments)
