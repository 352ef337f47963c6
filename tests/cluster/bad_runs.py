"""The runs of test_bad_clusters.py: in each, something does not go together."""

import json
import os

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tfbig.errors import TfbigError


def task() -> int:
    """This task's index."""
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def build(width: int = 4, layers: int = 1, rate: float = 0.1) -> keras.Model:
    hidden = [keras.layers.Dense(width, "relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def source(rows: int = 64, batch: int = 16, bad: int | None = None) -> tfbig.data.Source:
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    if bad is not None:
        x[bad, 1] = np.nan
    return tfbig.data.ArraySource((x, x[:, :1])).batch(batch)


def generated(rows: int) -> tf.data.Dataset:
    """Of unknown length."""
    signature = (tf.TensorSpec([3], tf.float32), tf.TensorSpec([1], tf.float32))
    rows = np.ones([rows, 3], np.float32)
    return tf.data.Dataset.from_generator(
        lambda: ((row, row[:1]) for row in rows), output_signature=signature
    ).batch(16)


def one(differs, usual):
    """A value of worker 1 that the others do not have."""
    return differs if task() == 1 else usual


def fails() -> None:
    raise ValueError("this task's data are broken")


# Functions that give the arguments of train_distributed, so that each task makes its own.
CASES = {
    "config": lambda: dict(config=_config(log_step_count_steps=one(5, 6))),
    "max_steps": lambda: dict(max_steps=one(8, 9)),
    "length": lambda: dict(input_fn=lambda: source(rows=one(80, 64))),
    "batch_size": lambda: dict(input_fn=lambda: source(batch=one(8, 16))),
    "held-out data": lambda: dict(eval_input_fn=lambda: source(rows=one(80, 64))),
    "held-out NaN": lambda: dict(eval_input_fn=lambda: source(bad=28)),
    "layer": lambda: dict(model_fn=lambda: build(layers=one(2, 1))),
    "width": lambda: dict(model_fn=lambda: build(width=one(5, 4))),
    "learning_rate": lambda: dict(model_fn=lambda: build(rate=one(0.2, 0.1))),
    "ends earlier": lambda: dict(input_fn=lambda: generated(one(32, 64)), max_steps=None, epochs=1),
    "devices": lambda: dict(devices=2),
    "input_fn": lambda: dict(input_fn=one(fails, source)),
}


def _config(**fields) -> tfbig.RunConfig:
    return tfbig.RunConfig(tf_random_seed=0, jit_compile=False, **fields)


def trained(case: str | None = None, strategy: str = "auto") -> dict:
    """Trains; returns the step that was reached, or the error."""
    usual = dict(model_fn=build, input_fn=source, max_steps=8, strategy=strategy)
    try:
        usual["config"] = _config()  # which reads the cluster's variables
        result = tfbig.train_distributed(**usual | (CASES[case]() if case else {}))
    except TfbigError as error:
        return {"error": type(error).__name__, "text": str(error)}
    except ValueError as error:
        return {"error": "ValueError", "text": str(error)}
    return {"step": result.global_step}


def adopted() -> dict:
    """A strategy of the user's own."""
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        tfbig.train_distributed(build, source, max_steps=8, strategy=strategy)
    except TfbigError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {}


def used_before(workers: list[int]) -> dict:
    """TensorFlow has started in some tasks before."""
    if task() in workers:
        tf.constant(1.0)
    return trained()


def with_callbacks(folder: str) -> dict:
    """Callbacks that only the chief has."""
    callbacks = [] if task() else [keras.callbacks.TensorBoard(folder)]
    result = tfbig.train_distributed(
        build, source, max_steps=8, epochs=None, config=_config(), callbacks=callbacks
    )
    return {"step": result.global_step, "weights": [w.tolist() for w in result.model.get_weights()]}
