"""Counters of Keras callbacks, which have no public names."""

import time


def profiled_batches(tensorboard) -> tuple[int, int]:
    """The first and the last batch that a TensorBoard callback profiles; (0, 0) if none.

    Reason: the argument profile_batch is stored under private names only.
    Guard: tests/private_api/test_callbacks.py.
    """
    return tensorboard._start_batch, tensorboard._stop_batch


def set_train_batches(tensorboard, batches: int) -> None:
    """Sets the number of training batches of a TensorBoard callback, which is its x-axis.

    Reason: the callback adds 1 at each on_train_batch_begin, and writes if the count is a multiple
    of update_freq. The loop calls this hook once for many steps.
    Guard: tests/private_api/test_callbacks.py.
    """
    tensorboard._global_train_batch = batches
    if tensorboard.update_freq != "epoch" and tensorboard._prev_summary_state:
        tensorboard._pop_writer()
        tensorboard._push_writer(tensorboard._train_writer, batches)


def evaluated_batches(tensorboard) -> int:
    """The number of evaluation batches of a TensorBoard callback.

    Reason: the callback writes an evaluation or not depending on this counter.
    Guard: tests/private_api/test_callbacks.py.
    """
    return tensorboard._global_test_batch


def set_evaluated_batches(tensorboard, batches: int) -> None:
    """Sets the number of evaluation batches of a TensorBoard callback.

    Reason: as for set_train_batches, the loop calls the hook once for many batches.
    Guard: tests/private_api/test_callbacks.py.
    """
    tensorboard._global_test_batch = batches


def set_mean_batch_time(tensorboard, batches: int) -> None:
    """Makes write_steps_per_second report the mean over the batches since the last hook.

    Reason: the callback treats the time between two hooks as the time of one batch.
    Guard: tests/private_api/test_callbacks.py.
    """
    now = time.time()
    tensorboard._batch_start_time = now - (now - tensorboard._batch_start_time) / batches


def flush_tensorboard(tensorboard) -> None:
    """Writes the buffered records of a TensorBoard callback to disk.

    Reason: a killed process would lose records from before its last checkpoint, and the writers
    have no public name.
    Guard: tests/private_api/test_callbacks.py.
    """
    for writer in tensorboard._writers.values():
        writer.flush()


def set_batches_since_save(checkpoint, batches: int, last: int | None) -> None:
    """Sets the counters of a ModelCheckpoint with a save_freq.

    Reason: a resumed run has to save at the same steps as an uninterrupted one.
    Guard: tests/private_api/test_callbacks.py.

    Args:
        checkpoint: a ModelCheckpoint or an OrbaxCheckpoint.
        batches: the number of batches since the last save.
        last: the index of the last batch in its epoch, or None if there was none.
    """
    checkpoint._batches_seen_since_last_saving = batches
    checkpoint._last_batch_seen = last


def restore_swapped_weights(swap) -> None:
    """Restores the weights that SwapEMAWeights(swap_on_epoch=True) replaced by averages.

    Reason: the callback restores them when the next epoch begins, but a checkpoint or the end of
    the process may come first.
    Guard: tests/private_api/test_callbacks.py.
    """
    if swap._ema_weights_in_model:
        swap._swap_variables()
        swap._ema_weights_in_model = False
