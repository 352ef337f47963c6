"""The runs that test_resume.py kills: each kind is a small training of its own."""

import logging
import os
import signal

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.checkpoint_values import saved_values

MAX_STEPS = 60
ROWS = 1000  # 16 batches of 64, the last of them smaller


class Counting(tfbig.data.ArraySource):
    """Counts the examples that are read, over all copies of the source."""

    read_examples = 0

    def read(self, indices):
        Counting.read_examples += len(indices)
        return super().read(indices)


class Kill(tfbig.callbacks.LoopCallback):
    """Ends the process with a signal in the call in which a step is reached."""

    def __init__(self, at: int, number: int):
        super().__init__()
        self._at, self._number = at, number

    def on_calls(self, step, logs):
        if step >= self._at:
            os.kill(os.getpid(), self._number)


def arrays():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 8)).astype(np.float32)
    return x, (x @ random.normal(size=(8, 1))).astype(np.float32)


def build_model() -> keras.Model:
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    return model


def model_fn(features, labels, mode):
    hidden = keras.layers.Dense(16, "relu")(features)
    output = keras.layers.Dense(1)(hidden)
    loss = keras.ops.square(output - labels)
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.Adam(1e-2))


def tf1_model_fn(features, labels, mode):
    hidden = tfbig.compat.v1.layers.dense(features, 16, tf.nn.relu)
    output = tfbig.compat.v1.layers.dense(hidden, 1)
    loss = tf.compat.v1.losses.mean_squared_error(labels, output)
    optimizer = tf.compat.v1.train.AdamOptimizer(1e-2)
    train_op = optimizer.minimize(loss, tf.compat.v1.train.get_global_step())
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


def build_classifier() -> keras.Model:
    """Drops units by the example's place, so that the number of replicas changes nothing."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(16, "relu"), tfbig.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(4)])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), loss, metrics=["accuracy"])
    return model


def augmented():
    """A mixture of two sources, shifted, mixed with partners: every random thing at once."""
    random = np.random.default_rng(0)
    parts = []
    for length in (700, 150):
        images = random.integers(0, 255, [length, 8, 8, 1]).astype(np.uint8)
        labels = np.eye(4, dtype=np.float32)[random.integers(0, 4, length)]
        parts.append(Counting((images, labels)))
    shift = {"name": "RandomTranslation", "height_factor": 0.2, "width_factor": 0.2}
    layers = [shift, {"name": "Rescaling", "scale": 1 / 255}, {"name": "MixUp"}]
    return tfbig.data.mix(parts, weights=[0.6, 0.4]).augment(layers).batch(64)


def source():
    return Counting(arrays()).batch(64)


def dataset():
    data = tf.data.Dataset.from_tensor_slices(arrays())
    return data.shuffle(ROWS).repeat(10).batch(64)  # its seed is the run's


def passes():
    return tf.data.Dataset.from_tensor_slices(arrays()).shuffle(ROWS).batch(64)


def generator():
    x, y = arrays()
    signature = (tf.TensorSpec([8], tf.float32), tf.TensorSpec([1], tf.float32))
    data = tf.data.Dataset.from_generator(
        lambda: zip(np.tile(x, [4, 1]), np.tile(y, [4, 1]), strict=True),
        output_signature=signature,
    )
    return data.batch(64)


def plateau():
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.5),
        keras.callbacks.EarlyStopping("val_loss", patience=30, restore_best_weights=True),
    ]


KINDS = {
    "source": dict(model_fn=build_model, input_fn=source),
    "dataset": dict(model_fn=build_model, input_fn=dataset),
    "passes": dict(model_fn=build_model, input_fn=passes, epochs=4),
    "generator": dict(model_fn=build_model, input_fn=generator),
    "model_fn": dict(model_fn=model_fn, input_fn=source),
    "model_fn_passes": dict(model_fn=model_fn, input_fn=passes, epochs=4),
    "tf1": dict(model_fn=tf1_model_fn, input_fn=source),
    "tf1_passes": dict(model_fn=tf1_model_fn, input_fn=passes, epochs=4),
    "tf1_repeated": dict(model_fn=tf1_model_fn, input_fn=lambda: passes().repeat(10)),
    "callbacks": dict(model_fn=build_model, input_fn=source, eval_input_fn=source),
    "augmented": dict(model_fn=build_classifier, input_fn=augmented),
    "mirrored": dict(model_fn=build_model, input_fn=source, strategy="mirrored", devices=2),
    "owner": dict(model_fn=build_model, input_fn=source, strategy="mirrored", devices=2),
    "owner_full": dict(model_fn=build_model, input_fn=source, strategy="mirrored", devices=2),
}
ON_TWO_REPLICAS = ("mirrored", "owner", "owner_full")


def run(kind: str, model_dir: str, at: int = 0, number: int = signal.SIGKILL) -> dict:
    """Trains; returns the weights and optimizer's variables, and what was logged."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("tfbig").addHandler(handler)
    logging.getLogger("tfbig").setLevel(logging.INFO)
    arguments = {"strategy": "one_device", "max_steps": MAX_STEPS, **KINDS[kind]}
    if "epochs" in arguments:
        del arguments["max_steps"]
    callbacks = plateau() if kind == "callbacks" else []
    Counting.read_examples = 0
    result = tfbig.train_distributed(
        **arguments,
        model_dir=model_dir,
        callbacks=[*callbacks, *([Kill(at, number)] if at else [])],
        config=tfbig.RunConfig(
            tf_random_seed=3,
            steps_per_loop=7,
            save_checkpoints_steps=10,
            keep_checkpoint_max=2,
            model_distribution=kind if kind.startswith("owner") else "replicated",
            # "auto" measures on two replicas, and two fresh runs may choose differently.
            jit_compile={"mirrored": False, "owner": True, "owner_full": False}.get(kind, "auto"),
        ),
    )
    return {
        "weights": {
            name: np.asarray(value).ravel().astype(float).tolist()
            for name, value in saved_values(os.path.dirname(newest(model_dir))).items()
        },
        "model": [w.ravel().tolist() for w in result.model.get_weights()] if result.model else [],
        "step": result.global_step,
        "preempted": result.preempted,
        "metrics": result.metrics,
        "log": lines,
        "read_examples": Counting.read_examples,
    }


def run_all(kinds: list[str], folder: str) -> dict:
    """Runs kinds one after the other, uninterrupted."""
    return {kind: run(kind, os.path.join(folder, kind)) for kind in kinds}


def newest(model_dir: str) -> str:
    folder = os.path.join(model_dir, "checkpoints")
    return os.path.join(folder, max(os.listdir(folder)), "state")
