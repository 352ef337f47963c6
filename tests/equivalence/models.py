"""The models and data of the cases."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

import tfbig

WEIGHTED_CLASSES = {0: 2.0, 3: 0.25, 9: 5.0}


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    return (images[order] / 16).astype("float32"), labels[order].astype("int64")


def digits(n: int) -> tuple:
    images, labels = _digits()
    return images[:n], labels[:n]


def images(n: int) -> tuple:
    flat, labels = digits(n)
    return flat.reshape(-1, 8, 8, 1), labels


def weighted_digits(n: int) -> tuple:
    """With weights from 0 to 3, so that each part of a batch has another sum of weights."""
    weights = np.random.RandomState(1).uniform(0, 3, n).astype("float32")
    weights[::7] = 0
    return (*digits(n), weights)


def class_weighted_digits(n: int) -> tuple:
    x, y = digits(n)
    return x, y, np.array([WEIGHTED_CLASSES.get(int(c), 1.0) for c in y], "float32")


def digits_with_one_huge(n: int, place: int) -> tuple:
    """One example whose gradient is too large for a scaled float16."""
    x, y = digits(n)
    x = x.copy()
    x[place] *= 3000
    return x, y


def tokens(n: int, length: int = 12) -> tuple:
    """Sequences of another length each, 0 after their end; labels are the next tokens."""
    random = np.random.RandomState(2)
    x = random.randint(1, 20, [n, length])
    for row, end in enumerate(random.randint(1, length + 1, n)):
        x[row, end:] = 0
    return x.astype("int32"), ((x * 7 + 3) % 20).astype("int32")


def weighted_tokens(n: int) -> tuple:
    """A weight for each token."""
    x, y = tokens(n)
    return x, y, np.random.RandomState(3).uniform(0, 2, x.shape).astype("float32")


def without_common_padding(data):
    """Cuts each batch to its longest sequence: batches then differ in their second dimension."""

    def cut(x, y):
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(x != 0, tf.int32), axis=1))
        return x[:, :longest], y[:, :longest]

    return data.map(cut)


def sentences(n: int) -> tuple:
    x, _ = tokens(n)
    return x, (x.sum(1) % 5).astype("int32")


def two_inputs(n: int) -> tuple:
    x, y = digits(n)
    parity = (y % 2).astype("float32")[:, None]
    features = {"top": x[:, :32], "bottom": x[:, 32:]}
    return features, {"digit": y, "odd": parity}


def unlabelled(n: int) -> tuple:
    return (digits(n)[0],)


def crossentropy(**arguments) -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def mlp(optimizer, *, loss=None, hidden=None, units=32, **compile_arguments) -> keras.Model:
    """64-32-10; `hidden`: arguments of the hidden layer."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(units, activation="relu", **(hidden or {})),
            layers.Dense(10, dtype="float32"),
        ]
    )
    model.compile(optimizer(), loss or crossentropy(), **compile_arguments)
    return model


def batch_norm(optimizer, *, synchronized: bool) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, use_bias=False),
            layers.BatchNormalization(momentum=0.8, synchronized=synchronized),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    model.compile(optimizer(), crossentropy(), metrics=["accuracy"])
    return model


def cnn(optimizer) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile(optimizer(), crossentropy(), metrics=["accuracy"])
    return model


def one_hot_digits(n: int) -> tuple:
    x, y = digits(n)
    return x, np.eye(10, dtype="float32")[y]


def dice(optimizer) -> keras.Model:
    """A loss that sums over the batch before it divides, and a metric that takes no row weights."""
    model = keras.Sequential([keras.Input((64,)), layers.Dense(10, activation="softmax")])
    overlap = keras.metrics.OneHotMeanIoU(10, name="overlap")
    model.compile(optimizer(), keras.losses.Dice(), metrics=[overlap])
    return model


class AddsLoss(layers.Layer):
    """Adds the mean over the batch of its inputs' squares."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(x**2))
        return x


def adds_loss(optimizer) -> keras.Model:
    inputs = keras.Input((64,))
    x = AddsLoss()(layers.Dense(32, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(10)(x))
    model.compile(optimizer(), crossentropy())
    return model


def autoencoder(optimizer) -> keras.Model:
    """Has no labels and no compiled loss: add_loss is all."""

    class Reconstruction(layers.Layer):
        def call(self, inputs):
            x, y = inputs
            self.add_loss(keras.ops.mean((x - y) ** 2))
            return y

    inputs = keras.Input((64,))
    decoded = layers.Dense(64)(layers.Dense(8, activation="tanh")(inputs))
    model = keras.Model(inputs, Reconstruction()([inputs, decoded]))
    model.compile(optimizer())
    return model


def tagger(optimizer, reduction: str = "sum_over_batch_size") -> keras.Model:
    """One class a token; the mask reaches the loss and the metrics."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(20, 8, mask_zero=True),
            layers.GRU(8, return_sequences=True),
            layers.Dense(20),
        ]
    )
    model.compile(optimizer(), crossentropy(reduction=reduction), weighted_metrics=["accuracy"])
    return model


def sentence_classifier(optimizer) -> keras.Model:
    """Averages the tokens under the mask: 0/0 for a sequence that is all padding."""
    model = keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            layers.Embedding(20, 8, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(5),
        ]
    )
    model.compile(optimizer(), crossentropy(), metrics=["accuracy"])
    return model


def masked_regressor(optimizer) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((12, 1)), layers.Masking(0.0), layers.SimpleRNN(6, return_sequences=True),
         layers.Dense(1)]
    )  # fmt: skip
    model.compile(optimizer(), "mse")
    return model


def sequences(n: int) -> tuple:
    x = tokens(n)[0][..., None].astype("float32") / 20
    return x, np.cos(x)


def two_heads(optimizer) -> keras.Model:
    inputs = {name: keras.Input((32,), name=name) for name in ("top", "bottom")}
    x = layers.Concatenate()([inputs["top"], inputs["bottom"]])
    x = layers.Dense(24, activation="tanh")(x)
    outputs = {
        "digit": layers.Dense(10, name="digit")(x),
        "odd": layers.Dense(1, activation="sigmoid", name="odd")(x),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer(),
        loss={"digit": crossentropy(), "odd": "binary_crossentropy"},
        loss_weights={"digit": 1.0, "odd": 0.3},
        metrics={"digit": ["accuracy"], "odd": [keras.metrics.AUC(name="auc")]},
    )
    return model


class OwnLoss(keras.Model):
    """Subclassed, with its own compute_loss: a scalar of which nothing is known."""

    def __init__(self):
        super().__init__()
        self.hidden, self.logits = layers.Dense(24, activation="relu"), layers.Dense(10)

    def call(self, x):
        return self.logits(self.hidden(x))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(
            keras.ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True) ** 2
        )


def own_loss(optimizer) -> keras.Model:
    model = OwnLoss()
    model.compile(optimizer(), metrics=["accuracy"])
    return model


def counts_updates(optimizer) -> keras.Model:
    """A layer whose state is an integer: one more for each update, however it is cut up."""

    class Counts(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False
            )

        def call(self, x, training=False):
            if training:
                self.count.assign(self.count + 1)
            return x

    model = keras.Sequential([keras.Input((64,)), Counts(), layers.Dense(10)])
    model.compile(optimizer(), crossentropy())
    return model


def hardly_random(optimizer) -> keras.Model:
    """Draws random numbers in each step that change nothing but the generators' state."""
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dropout(1e-9), layers.Dense(24), layers.Dropout(1e-9),
         layers.Dense(10)]
    )  # fmt: skip
    model.compile(optimizer(), crossentropy())
    return model


def dropped_out(optimizer) -> keras.Model:
    """Half of the units dropped, by the example's place in the global batch."""
    drop = tfbig.layers.Dropout
    model = keras.Sequential(
        [keras.Input((64,)), drop(0.2, seed=1), layers.Dense(24, activation="relu"),
         drop(0.5, seed=2), layers.Dense(10)]
    )  # fmt: skip
    model.compile(optimizer(), crossentropy())
    return model


def partly_trained(optimizer) -> keras.Model:
    """A frozen layer, and a weight that the loss does not depend on."""

    class Unused(layers.Layer):
        def build(self, shape):
            self.unused = self.add_weight(shape=[3])

        def call(self, x):
            return x

    frozen = layers.Dense(32, activation="relu", trainable=False)
    model = keras.Sequential([keras.Input((64,)), frozen, Unused(), layers.Dense(10)])
    model.compile(optimizer(), crossentropy())
    return model
