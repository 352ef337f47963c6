"""What Keras's own callbacks count by themselves, which only their private names tell."""

import time


def profiled_batches(tensorboard) -> tuple[int, int]:
    """The first and the last batch that a TensorBoard callback profiles; (0, 0): none.

    Reason: profile_batch is kept under these names only. Guard: test_profiled_batches.
    """
    return tensorboard._start_batch, tensorboard._stop_batch


def count_train_batches(tensorboard, batches: int) -> None:
    """Sets how many batches a TensorBoard callback has seen, which is its x-axis.

    Reason: it adds 1 at each on_train_batch_begin, and writes where the count is a multiple of
    update_freq; our loop calls that hook once for many steps. Guard: test_count_train_batches.
    """
    tensorboard._global_train_batch = batches
    if tensorboard.update_freq != "epoch" and tensorboard._prev_summary_state:
        tensorboard._pop_writer()
        tensorboard._push_writer(tensorboard._train_writer, batches)


def tested_batches(tensorboard) -> int:
    """How many batches of evaluations a TensorBoard callback has seen.

    Reason: whether an evaluation is written depends on it. Guard: test_count_tested_batches.
    """
    return tensorboard._global_test_batch


def count_tested_batches(tensorboard, batches: int) -> None:
    """Sets what `tested_batches` returns.

    Reason: as of `count_train_batches`. Guard: test_count_tested_batches.
    """
    tensorboard._global_test_batch = batches


def share_batch_time(tensorboard, batches: int) -> None:
    """Makes write_steps_per_second write the mean of the batches that ran since the last hook.

    Reason: it takes the time between two hooks for that of one batch. Guard:
    test_share_batch_time.
    """
    now = time.time()
    tensorboard._batch_start_time = now - (now - tensorboard._batch_start_time) / batches


def flush_tensorboard(tensorboard) -> None:
    """Writes what a TensorBoard callback holds back.

    Reason: a kill would lose records of before a checkpoint, and there is no public name.
    Guard: test_flush_tensorboard.
    """
    for writer in tensorboard._writers.values():
        writer.flush()


def count_batches_to_save(checkpoint, batches: int, last: int | None) -> None:
    """Sets the batches that a ModelCheckpoint with a save_freq counts.

    Reason: a run that goes on has to save at the same steps as one that was not interrupted.
    Guard: test_count_batches_to_save.

    Args:
        checkpoint: a ModelCheckpoint or an OrbaxCheckpoint.
        batches: seen since it saved.
        last: the number of the last one in its epoch, from 0; None: none was seen.
    """
    checkpoint._batches_seen_since_last_saving = batches
    checkpoint._last_batch_seen = last


def swap_averages_back(swap) -> None:
    """Puts the weights back that a SwapEMAWeights with swap_on_epoch has exchanged for averages.

    Reason: it does so at the next epoch's begin, and a checkpoint may come before that, or the
    end of the process, which forgets it. Guard: test_swap_averages_back.
    """
    if swap._ema_weights_in_model:
        swap._swap_variables()
        swap._ema_weights_in_model = False
