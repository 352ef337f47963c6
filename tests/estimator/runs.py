"""Runs of an Estimator, each in its own process."""

import os
import signal

import numpy as np

import tfbig
from tests.estimator import iris

KINDS = {"tf1": iris.model_fn, "keras": iris.keras_model_fn}


def train_whole(kind: str, model_dir: str) -> dict:
    config = iris.config(save_checkpoints_steps=7)
    estimator = iris.estimator(model_dir, KINDS[kind], config=config)
    estimator.train(iris.endless_input_fn, steps=40)
    return estimator.evaluate(iris.eval_input_fn)


class Kill(tfbig.callbacks.LoopCallback):
    """Kills the process between two checkpoints."""

    stop_every = 1

    def on_calls(self, step, logs):
        if step == 24:
            os.kill(os.getpid(), signal.SIGKILL)


def train_killed(kind: str, model_dir: str) -> None:
    config = iris.config(save_checkpoints_steps=7)
    estimator = iris.estimator(model_dir, KINDS[kind], config=config)
    estimator.train(iris.endless_input_fn, steps=40, hooks=[Kill()])


def train_and_use(kind: str, model_dir: str, strategy: str, devices: int) -> dict:
    estimator = iris.estimator(model_dir, KINDS[kind], strategy=strategy, devices=devices)
    estimator.train(iris.endless_input_fn, steps=100)
    return use(kind, model_dir, strategy, devices)


def use(kind: str, model_dir: str, strategy: str, devices: int) -> dict:
    """Evaluates and predicts from the newest checkpoint."""
    estimator = iris.estimator(model_dir, KINDS[kind], strategy=strategy, devices=devices)
    predictions = estimator.predict(iris.features_input_fn)
    names = ("hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias")
    if estimator.latest_checkpoint() is None:  # in a cluster, the chief wrote it to another folder
        names = ()
    weights = [np.zeros(0), *(estimator.get_variable_value(name).ravel() for name in names)]
    return {
        "ids": [int(one["class_ids"]) for one in predictions],
        "result": estimator.evaluate(iris.eval_input_fn),
        "weights": np.concatenate(weights).tolist(),
    }
