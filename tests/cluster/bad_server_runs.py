"""The runs of test_bad_server_clusters.py."""

import json
import os

import keras
import tensorflow as tf

import tfbig
from tests.cluster.parameter_server_runs import build, data


class Broken(tfbig.data.ArraySource):
    """Cannot be read by worker 0, once training goes on."""

    def read(self, indices):
        task = json.loads(os.environ["TF_CONFIG"])["task"]
        if len(indices) > 1 and task == {"type": "worker", "index": 0}:
            raise ValueError("the disk of this task is broken")
        return super().read(indices)


def accumulating() -> keras.Model:
    model = build()
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def synchronized() -> keras.Model:
    layers = keras.layers
    normalize = layers.BatchNormalization(synchronized=True)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(8), normalize, layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def shorter_elsewhere() -> tf.data.Dataset:
    """A Dataset of three batches, and of five on worker 1."""
    task = json.loads(os.environ["TF_CONFIG"])["task"]
    batches = 5 if task == {"type": "worker", "index": 1} else 3
    dataset = tf.data.Dataset.from_tensor_slices(data()[0]).batch(64).take(batches)
    return dataset.filter(lambda images, labels: True)  # of a length that nobody knows


def train(kind: str) -> None:
    training, _ = data()
    source = Broken if kind == "broken data" else tfbig.data.ArraySource
    read = lambda: source(training).batch(64)  # noqa: E731
    if kind == "uneven":
        read = shorter_elsewhere
    fields = {
        "synchronized": {"max_staleness": 0},
        "uneven": {"max_staleness": 0},
        "owner": {"model_distribution": "owner"},
        "jit": {"jit_compile": True},
    }.get(kind, {})
    model = {"accumulates": accumulating, "synchronized": synchronized}.get(kind, build)
    tfbig.train_distributed(
        model() if kind == "model" else model,
        read,
        strategy="parameter_server",
        max_steps=50,
        config=tfbig.RunConfig(**fields),
    )
