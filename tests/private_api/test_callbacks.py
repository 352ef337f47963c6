"""What Keras's callbacks count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig import _private_api


def board(folder, **options):
    found = keras.callbacks.TensorBoard(folder, write_graph=False, **options)
    found.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    return found


def test_profiled_batches(tmp_path):
    assert _private_api.profiled_batches(board(tmp_path)) == (0, 0)
    assert _private_api.profiled_batches(board(tmp_path, profile_batch=(3, 5))) == (3, 5)


def test_set_train_batches(tmp_path):
    callback = board(tmp_path, update_freq=4)
    callback.on_train_begin()
    recorded = []
    for batches in (4, 6, 8):
        callback.on_train_batch_begin(0)
        _private_api.set_train_batches(callback, batches)
        with callback.summary.experimental.summary_scope("x"):
            recorded.append(bool(callback.summary.scalar("x", 1.0)))
    assert recorded == [True, False, True]
    assert int(tf.summary.experimental.get_step()) == 8
    callback.on_train_end()
    assert tf.summary.experimental.get_step() is None


def test_set_evaluated_batches(tmp_path):
    callback = board(tmp_path, update_freq=2)
    _private_api.set_evaluated_batches(callback, 6)
    callback.on_test_begin()
    callback.on_test_batch_begin(0)
    assert _private_api.evaluated_batches(callback) == 7
    callback.model.compile("sgd", "mse")
    callback.on_test_end({})


def test_set_mean_batch_time(tmp_path):
    callback = board(tmp_path, write_steps_per_second=True)
    callback.on_train_begin()
    callback.on_train_batch_begin(0)
    began = callback._batch_start_time = callback._batch_start_time - 10.0
    _private_api.set_mean_batch_time(callback, 5)
    assert callback._batch_start_time == pytest.approx(began + 8.0, abs=0.5)


def test_flush_tensorboard(tmp_path):
    callback = board(tmp_path, update_freq=1)
    callback.on_train_begin()
    callback.summary.scalar("x", 1.0)
    (file,) = (tmp_path / "train").glob("events*")
    before = file.stat().st_size
    _private_api.flush_tensorboard(callback)
    assert file.stat().st_size > before
    callback.on_train_end()


def test_set_batches_since_save(tmp_path):
    callback = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=4)
    callback.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    callback.on_epoch_begin(1)
    _private_api.set_batches_since_save(callback, 2, 1)
    for batch in (2, 3, 4):
        callback.on_train_batch_end(batch, {})
    assert [path.name for path in tmp_path.iterdir()] == ["4.keras"]


def test_restore_swapped_weights():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    swap.set_model(model)
    swap.set_params({"epochs": 0})
    model.set_weights([np.full((1, 1), 4.0), np.full(1, 4.0)])
    swap.on_epoch_end(0)
    assert model.get_weights()[0] != 4.0
    for _ in range(2):
        _private_api.restore_swapped_weights(swap)
        assert model.get_weights()[0] == 4.0
