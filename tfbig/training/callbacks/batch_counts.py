"""Corrects the batch counts of Keras's callbacks in a loop that runs many steps in one call."""

from collections.abc import Iterable

import keras

from tfbig import _private_api

_SAVERS = (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
# These receive the batch number within the epoch, as from `fit`; file names and bars show it.
_BY_EPOCH = (
    *_SAVERS,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)


class BatchCounts:
    """Sets the batch counts of Keras's callbacks, and says where a call of the loop has to end.

    A TensorBoard's update_freq and a ModelCheckpoint's save_freq count batches from the start of
    the run. With the right counts, both act at the same steps as in `fit`, also in a resumed run.

    Args:
        callbacks: all callbacks of the run.

    Attributes:
        frequencies: a call has to end at the multiples of these steps.
        steps: a call also has to end at these steps.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]):
        callbacks = list(callbacks)
        self._boards = [c for c in callbacks if isinstance(c, keras.callbacks.TensorBoard)]
        self._savers = [
            c for c in callbacks if isinstance(c, _SAVERS) and isinstance(c.save_freq, int)
        ]
        frequencies = [board.update_freq for board in self._boards]
        frequencies += [saver.save_freq for saver in self._savers]
        self.frequencies = sorted({n for n in frequencies if isinstance(n, int) and n > 0})
        profiled = [_private_api.profiled_batches(board) for board in self._boards]
        # The profiler starts in the hook before its first batch, and stops after its last.
        self.steps = sorted({n for first, last in profiled if last for n in (first - 1, last)})
        self._epoch_steps: int | None = None
        self._first = 0
        self._tested: list[int] = []

    def begin(self, step: int, epoch_steps: int | None, tested: list[int]) -> None:
        """Sets the counts to their values after `step` batches; called after on_train_begin.

        Args:
            step: the global step at which the process starts.
            epoch_steps: batches in an epoch; None: not known.
            tested: the result of `state` in an earlier process; [] in a new run.
        """
        self._epoch_steps = epoch_steps
        for board, count in zip(self._boards, tested or [0] * len(self._boards), strict=False):
            _private_api.set_train_batches(board, step)
            _private_api.set_evaluated_batches(board, count)
        for saver in self._savers:
            last = self._in_epoch(step - 1) if step else None
            _private_api.set_batches_since_save(saver, step % max(saver.save_freq, 1), last)

    def state(self) -> list[int]:
        """Returns what a checkpoint stores: the evaluated batches that each TensorBoard counted."""
        return [_private_api.evaluated_batches(board) for board in self._boards]

    def batch(self, callback: keras.callbacks.Callback, number: int) -> int:
        """Returns the batch number for a callback's hook, given the number from 0 over the run."""
        return self._in_epoch(number) if isinstance(callback, _BY_EPOCH) else number

    def call_begin(self, step: int) -> None:
        """Called before on_train_batch_begin of a call; `step` updates are finished."""
        self._first = step
        for board in self._boards:
            _private_api.set_train_batches(board, step)

    def call_end(self, step: int) -> None:
        """Called before on_train_batch_end of a call; `step` updates are finished."""
        for board in self._boards:
            _private_api.set_train_batches(board, step)
            if board.write_steps_per_second:
                _private_api.set_mean_batch_time(board, max(step - self._first, 1))

    def test_begin(self) -> None:
        """Called before an evaluation."""
        self._tested = self.state()

    def test_call(self, last: int) -> None:
        """Called before on_test_batch_begin of a call; `last` is its last batch, counted from 0."""
        for board, before in zip(self._boards, self._tested, strict=True):
            _private_api.set_evaluated_batches(board, before + last)

    def flush(self) -> None:
        """Called before a checkpoint, because the steps before it never run again after a kill."""
        for board in self._boards:
            _private_api.flush_tensorboard(board)

    def _in_epoch(self, number: int) -> int:
        return number % self._epoch_steps if self._epoch_steps else number
