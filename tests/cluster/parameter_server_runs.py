"""The runs of test_parameter_server.py: one call in every task of a cluster with ps."""

import logging
import os

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import tfbig


class Noted(tfbig.data.ArraySource):
    """Notes which examples this process has read."""

    read_here: list[int] = []

    def read(self, indices):
        if len(indices) > 1:  # one alone is read to learn of the structure
            Noted.read_here.extend(map(int, indices))
        return super().read(indices)


def data():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype("float32"), labels[order]
    return (images[:1440], labels[:1440]), (images[1440:], labels[1440:])


def build() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    return model


def train(model_dir: str | None, steps: int, fields: dict) -> dict:
    """Trains on digits; returns what the test looks at."""
    training, held_out = data()
    result = tfbig.train_distributed(
        build,
        lambda: Noted(training).batch(64),
        eval_input_fn=lambda: tfbig.data.ArraySource(held_out).batch(100),
        strategy="parameter_server",
        model_dir=model_dir,
        max_steps=steps,
        config=tfbig.RunConfig(tf_random_seed=1, **fields),
    )
    found = {
        "pid": os.getpid(),
        "step": result.global_step,
        "metrics": result.metrics,
        "history": result.history,
        "read": Noted.read_here,
        "has_model": result.model is not None,
    }
    if result.model is not None:
        loss, accuracy = result.model.evaluate(*held_out, verbose=0)
        found["iterations"] = int(result.model.optimizer.iterations)
        found["here"] = {"loss": loss, "accuracy": accuracy}
    return found


def train_stale(most: list[int | None]) -> list[dict]:
    """Trains several times in one script, each time with another max_staleness."""
    return [train(None, 120, {"max_staleness": s, "log_step_count_steps": 40}) for s in most]


def train_on_dataset(model_dir: str, max_steps: int | None, epochs: int | None) -> dict:
    """Trains on a Dataset that does not tell its length; returns steps and what was logged."""
    training, held_out = data()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("tfbig").addHandler(handler)
    logging.getLogger("tfbig").setLevel(logging.INFO)

    def read():
        data = tf.data.Dataset.from_tensor_slices(training).shuffle(2000).batch(64)
        return data.filter(lambda x, y: True)  # whose length is not known

    result = tfbig.train_distributed(
        build,
        read,
        eval_input_fn=lambda: tf.data.Dataset.from_tensor_slices(held_out).batch(100),
        strategy="parameter_server",
        model_dir=model_dir,
        max_steps=max_steps,
        epochs=epochs,
        config=tfbig.RunConfig(tf_random_seed=1, eval_every_steps=50),
    )
    accuracy = result.model.evaluate(*held_out, verbose=0)[1] if result.model else None
    metrics = result.metrics
    return {"step": result.global_step, "lines": lines, "metrics": metrics, "here": accuracy}
