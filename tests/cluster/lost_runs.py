"""The runs of test_lost_workers.py: long ones, in which a task is lost or fails."""

import json
import os
import signal
import time

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

import tfbig
from tfbig.errors import PeerLost
from tfbig.placement.replicated import multi_worker

READING, STEPPING = "reads a batch", "is in a step"


class Slow(tfbig.data.ArraySource):
    """Takes its time for a batch, so that a run is there to be stopped, and says so."""

    def __init__(self, arrays, seconds: float = 0.05, fails_after: int | None = None):
        super().__init__(arrays)
        self._seconds, self._reads_left = seconds, fails_after

    def read(self, indices):
        print(READING, flush=True)
        time.sleep(self._seconds)
        if self._reads_left is not None:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise ValueError("the disk of this task is broken")
        return super().read(indices)


class Fails(keras.callbacks.Callback):
    """Raises an error in the midst of the run."""

    def on_train_batch_end(self, batch, logs=None):
        if batch >= 5:
            raise ValueError("this callback is broken")


def task() -> int:
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def build() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


class SlowLayer(keras.layers.Layer):
    """Takes its time inside the step, so that a task is stopped there, and says so."""

    def call(self, x):
        def wait(x):
            print(STEPPING, flush=True)
            time.sleep(0.05)
            return x

        waited = tf.numpy_function(wait, [tf.stop_gradient(x)], tf.float32)
        return x + 0.0 * tf.ensure_shape(waited, x.shape)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    return x, x[:, :1]


def source() -> tfbig.data.Source:
    return Slow(arrays()).batch(16)


def get_config() -> ConfigDict:
    """For `tfbig train --config=tests/cluster/lost_runs.py`."""
    config = ConfigDict()
    config.model_fn, config.input_fn = f"{__name__}.build", f"{__name__}.source"
    if __name__ != "tests.cluster.lost_runs":  # as the config file that it is, too
        config.model_fn = "tests.cluster.lost_runs.build"
        config.input_fn = "tests.cluster.lost_runs.source"
    config.run = ConfigDict(dict(jit_compile=False, steps_per_loop=2, tf_random_seed=0))
    config.max_steps = 100_000
    return config


def trained_in_long_calls() -> dict:
    """Trains for long, in calls of many steps that Python sees nothing of."""

    def model_fn():
        model = keras.Sequential([keras.Input((3,)), SlowLayer(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        return model

    try:
        tfbig.train_distributed(
            model_fn,
            lambda: tfbig.data.ArraySource(arrays()).batch(16),
            max_steps=100_000,
            config=tfbig.RunConfig(tf_random_seed=0, jit_compile=False, steps_per_loop=400),
        )
    except PeerLost as error:
        return {"lost": str(error)}
    return {}


def dies_while_the_strategy_is_made() -> dict:
    """Worker 1 is killed when all have met, and the chief waits for it in native code."""

    def dies(workers, index):
        os.kill(os.getpid(), signal.SIGKILL)

    multi_worker._STRATEGY_SECONDS = 5
    if task() == 1:
        multi_worker._strategy = dies
    return trained()


def used(verb: str) -> dict:
    """Evaluates or predicts; worker 1 has no data."""

    def input_fn():
        if task() == 1:
            raise ValueError("the disk of this task is broken")
        return source()

    model = tfbig.train_distributed(build, source, max_steps=1).model
    try:
        if verb == "evaluate":
            tfbig.evaluate(model, input_fn, strategy="multi_worker")
        else:
            list(tfbig.predict(model, input_fn, strategy="multi_worker"))
    except PeerLost as error:
        return {"lost": str(error)}
    return {}


def trained(fault: str | None = None, max_steps: int = 100_000) -> dict:
    """Trains for long; returns how it ended.

    Args:
        fault: "model_fn" or "data": of worker 1; "callback": of the chief.
        max_steps: when it ends.
    """
    mine = fault if task() == (0 if fault == "callback" else 1) else None

    def model_fn():
        if mine == "model_fn":
            raise ValueError("this model is broken")
        return build()

    def input_fn():
        if mine == "data":
            return Slow(arrays(), fails_after=6).batch(16)
        return source()

    try:
        result = tfbig.train_distributed(
            model_fn,
            input_fn,
            max_steps=max_steps,
            callbacks=[Fails()] if mine == "callback" else [],
            config=tfbig.RunConfig(tf_random_seed=0, jit_compile=False, steps_per_loop=2),
        )
    except PeerLost as error:
        return {"lost": str(error)}
    return {"step": result.global_step}
