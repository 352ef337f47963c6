"""The interface of data with random access: any example can be read by its number."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.errors import UserError


class Source:
    """Examples that can be read by their numbers, in any order and many at once.

    Random access is what makes a shuffle global without a buffer, and a resume O(1): the
    examples of step t are a function of (seed, t). A subclass implements `__len__` and `read`.

    Example:

        class Squares(tfbig.data.Source):
            def __len__(self):
                return 1000

            def read(self, indices):
                x = indices.astype("float32")[:, None]
                return x, x**2

        def input_fn():
            return Squares().batch(64)
    """

    batch_size: int | None = None
    _spec: Any = None

    def __len__(self) -> int:
        raise NotImplementedError("a Source implements __len__: its number of examples.")

    def read(self, indices: np.ndarray) -> Any:
        """Reads the examples with these numbers; called from one thread at a time.

        Args:
            indices: int64 array of shape [n], each in [0, len(self)).

        Returns:
            A nested structure (array, tuple, dict) of NumPy arrays whose first dimension is n:
            `features`, `(features, labels)` or `(features, labels, sample_weight)`.
        """
        raise NotImplementedError("a Source implements read(indices): the examples' arrays.")

    def map(self, fn: Callable[[Any], Any]) -> "Source":
        """Returns this source with `fn` applied to every batch that is read.

        Args:
            fn: takes and returns a nested structure of arrays with the same first dimension; it
                sees many examples at once.

        Example: `source.map(lambda batch: (batch[0] / 255, batch[1]))`.
        """
        return MappedSource(self, fn)

    def batch(self, batch_size: int) -> "Source":
        """Returns this source with a global batch of `batch_size` examples.

        The last batch of a pass over the data is smaller when the length asks for it.

        Raises:
            UserError: batch_size is no integer of 1 or more.
        """
        whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
        if not whole or batch_size < 1:
            raise UserError(
                f"Source.batch({batch_size!r}): the global batch size is an integer of 1 or more."
            )
        batched = copy.copy(self)
        batched.batch_size = int(batch_size)
        return batched

    @property
    def element_spec(self) -> Any:
        """The structure of one example: tf.TensorSpec leaves without the batch dimension."""
        if self._spec is None:
            if len(self) == 0:
                raise UserError(
                    f"{type(self).__name__} is empty: it has 0 examples. "
                    "Check the path or the filter that it was made from."
                )
            self._spec = tf.nest.map_structure(
                lambda a: tf.TensorSpec(np.shape(a)[1:], tf.as_dtype(np.asarray(a).dtype)),
                self.read(np.zeros([1], np.int64)),
            )
        return self._spec


class MappedSource(Source):
    """What `Source.map` returns: another source, and a function of its batches.

    Args:
        source: read from.
        fn: applied to what was read.
    """

    def __init__(self, source: Source, fn: Callable[[Any], Any]):
        self._source, self._fn = source, fn
        self.batch_size = source.batch_size

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Any:
        return self._fn(self._source.read(indices))
