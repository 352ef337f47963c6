"""Keras's own callbacks that count batches, at the true steps of a loop with many in one call."""

from collections.abc import Iterable

import keras

from tfbig import _private_api

_SAVERS = (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
# They are told a batch's number in its epoch, as `fit` does: file names and bars show it.
_BY_EPOCH = (
    *_SAVERS,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)


class BatchCounts:
    """Where such callbacks need a call of the loop to end, and what they have counted there.

    A TensorBoard's update_freq and a ModelCheckpoint's save_freq count batches from the start of
    the run. Both then act at the same steps as in `fit`, also in a run that goes on.

    Args:
        callbacks: of all kinds.

    Attributes:
        frequencies: at the multiples of these steps a call has to end.
        steps: and at these steps.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]):
        callbacks = list(callbacks)
        self._boards = [c for c in callbacks if isinstance(c, keras.callbacks.TensorBoard)]
        self._savers = [
            c for c in callbacks if isinstance(c, _SAVERS) and isinstance(c.save_freq, int)
        ]
        known = [board.update_freq for board in self._boards]
        known += [saver.save_freq for saver in self._savers]
        self.frequencies = sorted({n for n in known if isinstance(n, int) and n > 0})
        profiled = [_private_api.profiled_batches(board) for board in self._boards]
        # The profiler starts in the hook before its first batch, and stops after its last.
        self.steps = sorted({n for first, last in profiled if last for n in (first - 1, last)})
        self._epoch_steps: int | None = None
        self._first = 0
        self._tested: list[int] = []

    def begin(self, step: int, epoch_steps: int | None, tested: list[int]) -> None:
        """Sets the counts to what they are after `step` batches; called after on_train_begin.

        Args:
            step: the global step from which the run goes on.
            epoch_steps: batches in an epoch; None: not known.
            tested: what `state` returned in an earlier process; [] in a new run.
        """
        self._epoch_steps = epoch_steps
        for board, count in zip(self._boards, tested or [0] * len(self._boards), strict=False):
            _private_api.set_train_batches(board, step)
            _private_api.set_evaluated_batches(board, count)
        for saver in self._savers:
            last = self._in_epoch(step - 1) if step else None
            _private_api.set_batches_since_save(saver, step % max(saver.save_freq, 1), last)

    def state(self) -> list[int]:
        """What a checkpoint keeps: how many batches each TensorBoard has seen evaluated."""
        return [_private_api.evaluated_batches(board) for board in self._boards]

    def batch(self, callback: keras.callbacks.Callback, number: int) -> int:
        """What a callback is told of the batch with a number that counts from 0 over the run."""
        return self._in_epoch(number) if isinstance(callback, _BY_EPOCH) else number

    def call_begin(self, step: int) -> None:
        """Before the on_train_batch_begin of a call that follows on `step` finished updates."""
        self._first = step
        for board in self._boards:
            _private_api.set_train_batches(board, step)

    def call_end(self, step: int) -> None:
        """Before the on_train_batch_end of a call that finished `step` updates."""
        for board in self._boards:
            _private_api.set_train_batches(board, step)
            if board.write_steps_per_second:
                _private_api.set_mean_batch_time(board, max(step - self._first, 1))

    def test_begin(self) -> None:
        """Before an evaluation."""
        self._tested = self.state()

    def test_call(self, last: int) -> None:
        """Before the on_test_batch_begin of a call whose last batch has a number, from 0."""
        for board, before in zip(self._boards, self._tested, strict=True):
            _private_api.set_evaluated_batches(board, before + last)

    def flush(self) -> None:
        """Before a checkpoint: what was seen until then is not run again after a kill."""
        for board in self._boards:
            _private_api.flush_tensorboard(board)

    def _in_epoch(self, number: int) -> int:
        return number % self._epoch_steps if self._epoch_steps else number
