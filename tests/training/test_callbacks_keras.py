"""Keras's own callbacks and user-defined ones, in real runs on one device."""

import csv
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.errors import TrainingDiverged, UserError

EPOCH = 5  # steps in one epoch over 40 examples
X = np.random.RandomState(0).rand(40, 3).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 0.3


def input_fn():
    return tfbig.data.ArraySource((X, Y)).batch(8)


def train(*callbacks, rate=0.1, config=None, **options):
    def model_fn():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"])
        return model

    options = {"epochs": 6} | options if "max_steps" not in options else options
    return tfbig.train_distributed(
        model_fn,
        input_fn,
        eval_input_fn=input_fn,
        strategy="one_device",
        callbacks=[tfbig.callbacks.Progress(live=False), *callbacks],
        config=tfbig.RunConfig(tf_random_seed=1, **(config or {})),
        **options,
    )


def rates(values):
    """Sets the learning rate of each epoch."""
    return keras.callbacks.LearningRateScheduler(lambda epoch: values[min(epoch, len(values) - 1)])


class Weights(keras.callbacks.Callback):
    """Records the weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self._each = []

    def on_epoch_end(self, epoch, logs=None):
        self._each.append(self.model.get_weights())


def test_early_stopping_ends_the_run_and_restores_the_best_weights():
    weights = Weights()
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    # The loss falls for two epochs, then rises.
    result = train(rates([0.1, 0.1, -0.1]), weights, stopping, epochs=20)
    assert result.global_step == 4 * EPOCH
    assert stopping.stopped_epoch == 3
    for ours, best, last in zip(
        result.model.get_weights(), weights._each[1], weights._each[3], strict=True
    ):
        np.testing.assert_array_equal(ours, best)
        assert np.abs(ours - last).max() > 1e-3


def test_early_stopping_continues_its_count_in_a_resumed_run(tmp_path, caplog):
    def run(epochs):
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=3)
        with caplog.at_level(logging.INFO, "tfbig"):
            return train(stopping, rate=0.0, epochs=epochs, model_dir=tmp_path).global_step

    assert run(2) == 2 * EPOCH  # one epoch without improvement
    assert run(20) == 4 * EPOCH  # and two more
    caplog.clear()
    assert run(20) == 4 * EPOCH
    assert "nothing to train: a callback ended this run at step 20" in caplog.text


def test_reduce_lr_on_plateau_changes_the_rate_of_the_next_steps():
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=1.0)
    result = train(plateau, rate=0.08, config={"log_step_count_steps": EPOCH})
    assert [log["learning_rate"] for log in result.history] == pytest.approx(
        [0.08, 0.08, 0.04, 0.02, 0.01, 0.005]
    )
    assert float(result.model.optimizer.learning_rate) == pytest.approx(0.0025)


def test_a_rate_that_a_callback_sets_is_the_rate_that_trains():
    still, moved = Weights(), Weights()
    train(rates([0.1, 0.0]), still, epochs=3)
    train(rates([0.1, 0.1]), moved, epochs=3)
    for (after_0, _), (after_1, _), (after_2, _) in [still._each]:
        np.testing.assert_array_equal(after_0, after_1)
        np.testing.assert_array_equal(after_1, after_2)
    np.testing.assert_array_equal(still._each[0][0], moved._each[0][0])
    assert np.abs(moved._each[1][0] - moved._each[0][0]).max() > 1e-3


def test_csv_logger_writes_a_row_for_each_epoch(tmp_path):
    weights = Weights()
    train(keras.callbacks.CSVLogger(tmp_path / "log.csv"), weights, epochs=3)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert set(rows[0]) == {"epoch", "loss", "mae", "val_loss", "val_mae"}
    for row, (kernel, bias) in zip(rows, weights._each, strict=True):
        error = X @ kernel + bias - Y
        assert float(row["val_loss"]) == pytest.approx(np.mean(error**2), rel=1e-4)
        assert float(row["val_mae"]) == pytest.approx(np.mean(np.abs(error)), rel=1e-4)


def test_tensorboard_writes_the_epochs_of_training_and_validation(tmp_path):
    train(keras.callbacks.TensorBoard(tmp_path), epochs=2)
    for name in ("train", "validation"):
        found = {}
        for path in tf.io.gfile.glob(str(tmp_path / name / "events*")):
            for event in tf.compat.v1.train.summary_iterator(path):
                for value in event.summary.value:
                    found.setdefault(value.tag, []).append(event.step)
        assert found["epoch_loss"] == [0, 1]
        assert found["epoch_mae"] == [0, 1]


def test_model_checkpoint_saves_a_model_that_keras_can_load(tmp_path):
    path = tmp_path / "best.keras"
    result = train(keras.callbacks.ModelCheckpoint(path, save_best_only=True), epochs=3)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.get_weights()[0], result.model.get_weights()[0])


def test_terminate_on_nan_ends_the_run_and_without_it_a_nan_is_an_error():
    result = train(keras.callbacks.TerminateOnNaN(), rate=1e25, epochs=50)
    assert result.global_step < 50 * EPOCH
    with pytest.raises(TrainingDiverged, match="for the first time at step 3;"):
        train(rate=1e15, epochs=50)


def test_batch_hooks_receive_the_true_step_of_each_call():
    began, ended, epochs = [], [], []
    recorder = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: began.append(batch),
        on_train_batch_end=lambda batch, logs: ended.append((batch, *sorted(logs))),
        on_epoch_end=lambda epoch, logs: epochs.append((epoch, ended[-1][0])),
    )
    train(recorder, epochs=3, config={"steps_per_loop": 3})
    assert began == [0, 3, 5, 8, 10, 13]
    assert [line[0] for line in ended] == [2, 4, 7, 9, 12, 14]
    assert {line[1:] for line in ended} == {("loss", "mae")}
    assert epochs == [(0, 4), (1, 9), (2, 14)]


def test_a_run_can_stop_in_the_middle_of_an_epoch():
    class Stop(tfbig.callbacks.LoopCallback):
        def on_calls(self, step, logs):
            self.model.stop_training = step == 7

    result = train(Stop(), config={"steps_per_loop": 1})
    assert result.global_step == 7


def test_a_users_callback_keeps_its_public_attributes_in_a_resumed_run(tmp_path):
    class Count(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.epochs_seen, self.best_kernel = 0, None
            self._private = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs_seen += 1
            self._private += 1
            self.best_kernel = self.model.get_weights()[0]

    train(Count(), epochs=2, model_dir=tmp_path)
    count = Count()
    result = train(count, epochs=5, model_dir=tmp_path)
    assert (count.epochs_seen, count._private) == (5, 3)
    np.testing.assert_array_equal(count.best_kernel, result.model.get_weights()[0])


def test_invalid_and_conflicting_callbacks_are_rejected(tmp_path):
    with pytest.raises(UserError, match="BackupAndRestore, which would overwrite the state from"):
        train(keras.callbacks.BackupAndRestore(tmp_path))
    with pytest.raises(
        UserError, match=r"which is not a keras\.callbacks\.Callback; pass instances"
    ):
        train(keras.callbacks.EarlyStopping)
