"""Models with a train_step of their own, and runs of them by fit and by tfbig."""

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.training.small_runs import arrays, config

outside = {}  # a variable that a step uses and its model does not hold


class Classifier(keras.Model):
    """Its own metrics, random numbers, and state of every kind that changes in its step."""

    def __init__(self):
        super().__init__()
        self.hidden, self.drop = keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2)
        self.norm, self.head = keras.layers.BatchNormalization(), keras.layers.Dense(3)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="hits")
        self.raw = tf.Variable(0.0, trainable=False)
        self.parts = {"counts": [keras.Variable(0.0, trainable=False)]}

    def call(self, x, training=False):
        return self.head(self.norm(self.drop(self.hidden(x), training=training), training=training))

    @property
    def metrics(self):
        return [self.loss_tracker, self.accuracy]

    def loss_of(self, y, outputs):
        loss = keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True)
        return keras.ops.mean(loss)

    def results(self, y, outputs, loss):
        self.loss_tracker.update_state(loss)
        self.accuracy.update_state(y, outputs)
        return {metric.name: metric.result() for metric in self.metrics}

    def train_step(self, data):
        x, y = data
        self.raw.assign_add(1.0)
        self.parts["counts"][0].assign(2.0 * self.raw)
        if outside:
            outside["steps"].assign_add(1)
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.loss_of(y, outputs)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.results(y, outputs, loss)

    def test_step(self, data):
        x, y = data
        outputs = self(x, training=False)
        return self.results(y, outputs, self.loss_of(y, outputs))


class Adversaries(keras.Model):
    """A GAN: two optimizers, a compile of its own, no call, nothing built but the generator."""

    def __init__(self):
        super().__init__()
        self.critic = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
        self.generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
        self.seed_generator = keras.random.SeedGenerator(5)
        self.d_loss, self.g_loss = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()  # which leaves an RMSprop in self.optimizer
        self.optimizers = {"d": d_optimizer, "g": g_optimizer}
        self.loss_fn = loss_fn

    @property
    def metrics(self):
        return [self.d_loss, self.g_loss]

    def train_step(self, real):
        n = tf.shape(real)[0]
        fakes = self.generator(keras.random.normal((n, 4), seed=self.seed_generator))
        with tf.GradientTape() as tape:
            found = self.critic(tf.concat([real, fakes], 0))
            d_loss = self.loss_fn(tf.concat([tf.ones((n, 1)), tf.zeros((n, 1))], 0), found)
        weights = self.critic.trainable_weights
        self.optimizers["d"].apply(tape.gradient(d_loss, weights), weights)
        noise = keras.random.normal((n, 4), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(tf.ones((n, 1)), self.critic(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.optimizers["g"].apply(tape.gradient(g_loss, weights), weights)
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"losses": {metric.name: metric.result() for metric in self.metrics}}


def classifier() -> keras.Model:
    model = Classifier()
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    return model


def adversaries() -> keras.Model:
    model = Adversaries()
    rates = keras.optimizers.Adam(1e-2), keras.optimizers.SGD(2e-2, momentum=0.9)
    model.compile(*rates, keras.losses.BinaryCrossentropy(from_logits=True))
    return model


MODELS = {"classifier": classifier, "adversaries": adversaries}


def data(kind: str, rows: int) -> tf.data.Dataset:
    x, y = arrays(rows)
    parts = (x, y) if kind == "classifier" else x
    return tf.data.Dataset.from_tensor_slices(parts).batch(16)


class Epochs(keras.callbacks.Callback):
    """Keeps what is told at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


def by_fit(kind: str, rows: int, jit: bool = False, strategy=None):
    """Keras's own fit: the model, and the logs of each epoch."""
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = MODELS[kind]()
    model.jit_compile = jit
    evaluate = {"validation_data": data(kind, rows)} if kind == "classifier" else {}
    history = model.fit(data(kind, rows), epochs=2, verbose=0, **evaluate).history
    return model, [
        dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)
    ]


def by_tfbig(kind: str, rows: int, jit: bool = False, callbacks=(), every=None, **keywords):
    """The same by tfbig: its result, and the logs of each epoch."""
    epochs = Epochs()
    evaluate = {"eval_input_fn": lambda: data(kind, rows)} if kind == "classifier" else {}
    result = tfbig.train_distributed(
        MODELS[kind],
        lambda: data(kind, rows),
        epochs=2,
        callbacks=[epochs, *callbacks],
        config=config(jit_compile=jit, eval_every_steps=every, save_checkpoints_steps=5),
        **{"strategy": "one_device", **evaluate, **keywords},
    )
    return result, epochs.logs


def difference(first: keras.Model, second: keras.Model) -> float:
    """The largest between their weights; those of both are as many."""
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return float(max(np.abs(a - b).max() for a, b in pairs))


class Crash(tfbig.callbacks.LoopCallback):
    """Ends a run with an error after a step, between two checkpoints."""

    stop_every = 1

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def on_calls(self, step, logs):
        if step == self.at:
            raise InterruptedError


def on_two_replicas(folder: str) -> dict:
    """Against fit under its strategy; with evaluations in mid-epoch; crashed and gone on with."""
    from tests.checkpoint_values import saved_values
    from tfbig.placement.strategies import make_placement

    found = {}
    strategy = make_placement("mirrored", 2).strategy
    two = {"strategy": "mirrored", "devices": 2}
    fitted, logs = by_fit("classifier", 128, strategy=strategy)
    result, mine = by_tfbig("classifier", 128, **two)
    found["difference"], found["logs"], found["mine"] = difference(fitted, result.model), logs, mine
    found["trained"] = trained(result.model)
    for kind in MODELS:
        paths = {name: os.path.join(folder, f"{kind}_{name}") for name in ("straight", "crashed")}
        every = 3 if kind == "classifier" else None
        straight, logs = by_tfbig(kind, 128, every=every, model_dir=paths["straight"], **two)
        with contextlib.suppress(InterruptedError):
            by_tfbig(
                kind, 128, every=every, callbacks=[Crash(13)], model_dir=paths["crashed"], **two
            )
        resumed, _ = by_tfbig(kind, 128, every=every, model_dir=paths["crashed"], **two)
        saved = [
            saved_values(os.path.join(path, "checkpoints", "ckpt-00000016"))
            for path in paths.values()
        ]
        found[kind] = {
            "different": [n for n in saved[0] if not np.array_equal(saved[0][n], saved[1][n])],
            "names": sorted(saved[0]),
            "loss": [straight.loss, resumed.loss],
            "logs": logs,
        }
    try:
        by_tfbig("classifier", 128, model_dir=os.path.join(folder, "classifier_crashed"))
    except tfbig.errors.CheckpointError as error:
        found["elsewhere"] = str(error)
    return found | {"refused": refusals(two)}


def refusals(two: dict) -> list[str]:
    """What is said of parts without an example and of slices."""
    said = []
    for kind, rows, fields in (
        ("classifier", 129, {}),
        ("classifier", 128, {"model_distribution": "owner"}),
        ("unseeded", 128, {}),
    ):
        try:
            tfbig.train_distributed(
                unseeded if kind == "unseeded" else MODELS[kind],
                lambda: data("classifier", rows),  # noqa: B023
                epochs=1,
                config=config(**fields),
                **two,
            )
        except tfbig.errors.UserError as error:
            said.append(str(error))
    return said


class Unseeded(Classifier):
    def train_step(self, data):
        x, y = data
        return super().train_step((x + keras.random.normal(tf.shape(x)), y))


def unseeded() -> keras.Model:
    model = Unseeded()
    model.compile("adam")
    return model


def trained(model: keras.Model) -> list[float]:
    """All numbers that are trained; moving statistics are each replica's own."""
    return [float(x) for w in model.trainable_weights for x in np.ravel(w.numpy())]


def by_two_workers(folder: str) -> dict:
    """What one of two workers gets."""
    result, logs = by_tfbig("classifier", 128, model_dir=folder, strategy="multi_worker")
    return {
        "trained": trained(result.model),
        "logs": logs,
        "loss": result.loss,
    }
