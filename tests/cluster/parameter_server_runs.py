"""The runs of test_parameter_server.py: one call in every task of a cluster with ps."""

import os

import keras
import numpy as np
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
