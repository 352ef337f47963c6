"""Small trained models in every format; what the tests of this folder load."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

import tfbig

X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 2)).astype("float32")


def build(units: int = 2) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8,), name="features"),
            keras.layers.Dense(4, activation="relu", name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(units, name="head"),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


def trained() -> keras.Model:
    model = build()
    model.fit(X, Y, epochs=3, verbose=0, batch_size=16)  # six updates
    return model


def batches():
    return tfbig.data.ArraySource((X, Y)).batch(16)


def save_all(model: keras.Model, folder: pathlib.Path) -> dict[str, str]:
    """Saves a model in each format of Keras 3; returns what to load by the format's name."""
    paths = {
        "keras": folder / "model.keras",
        "h5": folder / "model.h5",
        "weights": folder / "model.weights.h5",
        "savedmodel": folder / "saved_model",
        "checkpoint": folder / "checkpoint" / "both",
        "bare_checkpoint": folder / "checkpoint" / "bare",
        "named_checkpoint": folder / "checkpoint" / "net",
    }
    model.save(paths["keras"])
    model.save(paths["h5"])
    model.save_weights(paths["weights"])
    model.export(paths["savedmodel"], verbose=False)
    both = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    both.write(str(paths["checkpoint"]))
    tf.train.Checkpoint(model).write(str(paths["bare_checkpoint"]))
    tf.train.Checkpoint(net=model).write(str(paths["named_checkpoint"]))
    return {name: str(path) for name, path in paths.items()}


def builder_for(name: str):
    """The base_model_fn that a format needs."""
    return None if name in ("keras", "h5", "savedmodel") else build
