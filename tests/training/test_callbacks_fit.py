"""Keras's own callbacks act at the steps of `fit`, and show what it shows."""

import csv
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig

EPOCH = 5  # steps in one pass over 36 examples, the last of half a batch
X = np.random.RandomState(0).rand(36, 3).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 0.3
QUIET = tfbig.callbacks.Progress(live=False, console=type("N", (), {"print": lambda *a, **k: 0})())


def dataset(examples=36):
    return tf.data.Dataset.from_tensor_slices((X[:examples], Y[:examples])).batch(8)


def build(**optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")])
    optimizer = keras.optimizers.SGD(0.1, **optimizer)
    model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
    return model


def fit(*callbacks, epochs=4, model=None):
    model = model or build()
    model.fit(dataset(), validation_data=dataset(24), epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def train(*callbacks, model_fn=build, config=None, **options):
    options = {"epochs": 4} | options if "max_steps" not in options else options
    return tfbig.train_distributed(
        model_fn,
        dataset,
        eval_input_fn=lambda: dataset(24),
        strategy="one_device",
        callbacks=[QUIET, *callbacks],
        config=tfbig.RunConfig(tf_random_seed=1, jit_compile=False, **(config or {})),
        **options,
    )


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends a run as a kill does, after a step."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 >= self._step:
            raise Killed


def killed(make, kill, model_dir, **options):
    """Trains until a kill, with a checkpoint at every third step, and then to the end."""
    config = {"save_checkpoints_steps": 3, **options.pop("config", {})}
    options = {"model_dir": model_dir, "config": config, **options}
    with pytest.raises(Killed):
        train(*make(), Kill(kill), **options)
    return train(*make(), **options)


def scalars(folder):
    """(run, tag) to {step: value}, of all event files below a folder; no step is there twice."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*/events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag.startswith(("batch_", "epoch_", "evaluation_")):
                    of_tag = found.setdefault((path.parent.name, value.tag), {})
                    assert event.step not in of_tag, (path.parent.name, value.tag, event.step)
                    of_tag[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def assert_same_scalars(ours, fits, *, leave_out=()):
    assert ours.keys() == fits.keys()
    for key, values in fits.items():
        assert list(ours[key]) == list(values), key
        if key[1] not in leave_out:
            np.testing.assert_allclose(list(ours[key].values()), list(values.values()), rtol=1e-4)


@pytest.mark.parametrize("frequency", [2, "batch"])
def test_tensorboard_with_an_update_freq_shows_what_fit_shows(frequency, tmp_path):
    def board(name):
        options = dict(update_freq=frequency, write_steps_per_second=True)
        return keras.callbacks.TensorBoard(tmp_path / name, **options)

    rates = ("batch_steps_per_second", "epoch_steps_per_second")
    fit(board("fit"))
    expected = scalars(tmp_path / "fit")
    batches = list(range(2, 21, 2)) if frequency == 2 else list(range(1, 21))
    assert list(expected["train", "batch_loss"]) == batches
    train(board("ours"))
    assert_same_scalars(scalars(tmp_path / "ours"), expected, leave_out=rates)
    if frequency == 2:  # killed after step 13, goes on from step 12
        killed(lambda: [board("killed")], 13, tmp_path / "run")
        assert_same_scalars(scalars(tmp_path / "killed"), expected, leave_out=rates)
