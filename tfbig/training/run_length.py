"""The last step of a run, for learning rates that end with it."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.data.source import Source


class RunLength:
    """The last step of a run, which is known when its data have been read.

    Example:

        length = RunLength(input_fn, max_steps=None, epochs=2)
        data = length.input_fn()  # 100 examples in batches of 8
        length.total_steps()  # 26

    Args:
        input_fn: called once, through the attribute `input_fn`.
        max_steps, epochs: as in train_distributed.
    """

    def __init__(self, input_fn: Callable, max_steps: int | None, epochs: int | None):
        self._max_steps, self._epochs = max_steps, epochs
        self._steps_per_pass: int | None = None
        self._repeats = False

        @functools.wraps(input_fn)
        def recorded(**arguments):
            data = input_fn(**arguments)
            self._steps_per_pass = _steps_per_pass(data)
            self._repeats = isinstance(data, Source)
            return data

        self.input_fn = recorded

    def total_steps(self) -> int | None:
        """The last step, or None if the length of the data is not known.

        A Dataset is not repeated by itself: it may end before max_steps.
        """
        if self._steps_per_pass is None or (self._max_steps is not None and self._repeats):
            return self._max_steps
        of_data = self._steps_per_pass * (self._epochs or 1)
        return of_data if self._max_steps is None else min(self._max_steps, of_data)


def _steps_per_pass(data: Any) -> int | None:
    if isinstance(data, Source) and data.batch_size:
        return -(-len(data) // data.batch_size)
    if isinstance(data, tf.data.Dataset):
        cardinality = int(data.cardinality())
        return cardinality if cardinality > 0 else None  # infinite and unknown are negative
    return None
