"""A model and data small enough that a run takes a second, for the tests of a run's life."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.checkpoint_values import saved_values

BATCH = 16
EXAMPLES = 10 * BATCH - 8  # ten batches, the last of them half


def arrays(examples: int = EXAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Features of shape [examples, 8] and the labels 0 to 2, which can be learned."""
    random = np.random.RandomState(0)
    features = random.normal(size=(examples, 8)).astype("float32")
    return features, np.argmax(features[:, :3], axis=1).astype("int32")


def source() -> tfbig.data.Source:
    return tfbig.data.ArraySource(arrays()).batch(BATCH)


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays()).batch(BATCH)


def build(dropout: float = 0.0, rate: float = 0.01, units: int = 8) -> keras.Model:
    """A compiled classifier of `arrays`."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(units, "relu")])
    if dropout:
        model.add(keras.layers.Dropout(dropout))
    model.add(keras.layers.Dense(3))
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def config(**fields) -> tfbig.RunConfig:
    """A RunConfig with a seed, and without the seconds that XLA takes."""
    return tfbig.RunConfig(**{"tf_random_seed": 3, "jit_compile": False, **fields})


def train(model_fn=build, input_fn=source, **keywords) -> tfbig.TrainResult:
    """train_distributed on one device, with `config()` unless another is given."""
    keywords = {"strategy": "one_device", "config": config(), **keywords}
    return tfbig.train_distributed(model_fn, input_fn, **keywords)


def checkpoint(model_dir, step: int) -> pathlib.Path:
    return pathlib.Path(model_dir) / "checkpoints" / f"ckpt-{step:08d}"


def checkpoint_steps(model_dir) -> list[int]:
    folders = (pathlib.Path(model_dir) / "checkpoints").glob("ckpt-*")
    return sorted(int(folder.name.removeprefix("ckpt-")) for folder in folders)


def saved_variables(model_dir, step: int) -> dict[str, np.ndarray]:
    """All variables of a checkpoint: weights, optimizer, metrics and the states of seeds."""
    return saved_values(checkpoint(model_dir, step))


def assert_same_variables(first: dict, second: dict) -> None:
    """Asserts that all are equal bit for bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not np.array_equal(first[name], second[name])]
    assert not different


def files_below(folder) -> list[str]:
    folder = pathlib.Path(folder)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
