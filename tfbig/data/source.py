"""The interface of data with random access: any example can be read by its number."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data import bad_records
from tfbig.errors import UserError

_TRIES = 1000  # records that may be bad before the first good one


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

    Attributes:
        batch_size: examples in a global batch, None until `batch` sets it.
        threads: how many threads may call `read` at the same time.
        augmentation: what `augment` was given.
        mixture: of a source made by `tfbig.data.mix`: how its parts are drawn.
        cleaning: of a source made by `Cleaning.fit` or `apply`: that Cleaning, for serving.
        mapped_after_cleaning: whether what the Cleaning returns is changed by a `map`, which
            serving has to do too.
    """

    batch_size: int | None = None
    threads: int = 1
    augmentation: Any = None
    mixture: Any = None
    cleaning: Any = None
    mapped_after_cleaning: bool = False
    _spec: Any = None

    def __len__(self) -> int:
        raise NotImplementedError("a Source implements __len__: its number of examples.")

    def read(self, indices: np.ndarray) -> Any:
        """Reads the examples with these numbers, in their order; one may be asked for twice.

        It is called from one thread at a time, unless `threads` is larger than 1.

        Args:
            indices: int64 array of shape [n], each in [0, len(self)).

        Returns:
            A nested structure (array, tuple, dict) of NumPy arrays whose first dimension is n:
            `features`, `(features, labels)` or `(features, labels, sample_weight)`.

        Raises:
            BadRecords: some of these examples cannot be read.
        """
        raise NotImplementedError("a Source implements read(indices): the examples' arrays.")

    def map(self, fn: Callable[[Any], Any]) -> "Source":
        """Returns this source with `fn` applied to every batch that is read.

        Args:
            fn: takes and returns a nested structure of arrays with the same first dimension; it
                sees many examples at once, which need not be a batch, and where `threads` is
                larger than 1 several threads may call it at the same time.

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

    def select(self, indices: Any) -> "Source":
        """Returns the part of this source with these examples, without copying data.

        Example: `train = source.select(split.train)`.

        Args:
            indices: integers of shape [n], or bool of shape [len(source)].

        Raises:
            UserError: an index is out of range, or the source is a mixture.
        """
        return SelectedSource(self, indices)

    def augment(self, augmentation: Any) -> "Source":
        """Returns this source with random changes of its examples, in training only.

        Example: `source.augment([{"name": "RandomFlip", "mode": "horizontal"}])`.

        Args:
            augmentation: see `tfbig.data.augmentation.Augmentation`, or its list of layers. It
                sees batches as they come out of `read` and of each `map`.

        Raises:
            UserError: it is augmented already, or the layers cannot be used.
        """
        from tfbig.data.augmentation import as_augmentation

        if self.augmentation is not None:
            raise UserError(
                "augment: this source is augmented already; put all layers into one list."
            )
        augmented = copy.copy(self)
        augmented.augmentation = as_augmentation(augmentation)
        return augmented

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
                self._read_one(),
            )
        return self._spec

    def _read_one(self) -> Any:
        tries = min(len(self), _TRIES)
        for number in range(tries):
            batch, _ = bad_records.read_good(self, np.array([number], np.int64))
            if batch is not None:
                return batch
        raise UserError(
            f"{type(self).__name__}: its first {tries} of {len(self)} records are all bad; "
            "repair the data, or what reads them."
        )


class _Derived(Source):
    """A source that reads from another and is batched, augmented and cleaned as that is."""

    def __init__(self, source: Source):
        self._source = source
        for name in (
            *("batch_size", "threads", "augmentation", "mixture"),
            *("cleaning", "mapped_after_cleaning"),
        ):
            setattr(self, name, getattr(source, name))

    def __len__(self) -> int:
        return len(self._source)


class MappedSource(_Derived):
    """What `Source.map` returns: another source, and a function of its batches.

    Args:
        source: read from.
        fn: applied to what was read.
    """

    def __init__(self, source: Source, fn: Callable[[Any], Any]):
        super().__init__(source)
        self._fn = fn
        self.mapped_after_cleaning = source.cleaning is not None

    def read(self, indices: np.ndarray) -> Any:
        return self._fn(self._source.read(indices))


class SelectedSource(_Derived):
    """What `Source.select` returns: some examples of another source, numbered anew.

    Args:
        source: read from.
        indices: as in `Source.select`.
    """

    def __init__(self, source: Source, indices: Any):
        super().__init__(source)
        if source.mixture is not None:
            raise UserError(
                "select: a mixture has no examples of its own; select from its sources, then mix."
            )
        self._indices = _checked_indices(indices, len(source))

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: np.ndarray) -> Any:
        return self._source.read(self._indices[indices])


def _checked_indices(indices: Any, length: int) -> np.ndarray:
    array = np.asarray(indices)
    if array.dtype == bool and array.shape == (length,):
        return np.flatnonzero(array)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"select: expected integers of shape [n] or bool of shape [{length}], received "
            f"{array.dtype.name} of shape {list(array.shape)}."
        )
    outside = array[(array < 0) | (array >= length)]
    if len(outside):
        raise UserError(
            f"select: there is no example {outside[0]}; the source has {length}, counted from 0."
        )
    return array.astype(np.int64)
