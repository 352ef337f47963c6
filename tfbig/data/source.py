"""The interface of random-access data: any example can be read by its number."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data import bad_records
from tfbig.errors import UserError

_TRIES = 1000  # bad records at the start of a source before `element_spec` gives up


class Source:
    """Examples that can be read by their numbers, in any order and many at once.

    Random access allows a global shuffle without a buffer, and a resume in O(1): the examples of
    step t are a function of (seed, t). A subclass implements `__len__` and `read`.

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
        threads: the number of threads that may call `read` at the same time.
        augmentation: the argument of `augment`.
        mixture: for a source made by `tfbig.data.mix`: the lengths and weights of its sources.
        cleaning: for a source made by `Cleaning.fit` or `apply`: that Cleaning, for serving.
        mapped_after_cleaning: whether a `map` follows the Cleaning, so that serving must apply
            that function too.
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
        """Reads the examples with these numbers, in this order; a number may occur twice.

        Only one thread at a time calls it, unless `threads` is larger than 1.

        Args:
            indices: int64 array of shape [n], each in [0, len(self)).

        Returns:
            A nested structure (array, tuple, dict) of NumPy arrays whose first dimension is n:
            `features`, `(features, labels)` or `(features, labels, sample_weight)`.

        Raises:
            BadRecords: some of these examples cannot be read.
        """
        raise NotImplementedError("a Source implements read(indices): the arrays of the examples.")

    def map(self, fn: Callable[[Any], Any]) -> "Source":
        """Returns this source with `fn` applied to every batch that is read.

        Args:
            fn: takes and returns a nested structure of arrays with the same first dimension. It
                gets many examples at once, which are not always one batch. If `threads` is larger
                than 1, several threads may call it at the same time.

        Example: `source.map(lambda batch: (batch[0] / 255, batch[1]))`.
        """
        return MappedSource(self, fn)

    def batch(self, batch_size: int) -> "Source":
        """Returns this source with a global batch of `batch_size` examples.

        The last batch of a pass is smaller if `batch_size` does not divide the length.

        Raises:
            UserError: batch_size is not an integer of 1 or more.
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
        """Returns a source with only these examples, without copying data.

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
            augmentation: a `tfbig.data.augmentation.Augmentation`, or its list of layers. It gets
                batches after `read` and each `map`.

        Raises:
            UserError: the source is already augmented, or the layers cannot be used.
        """
        from tfbig.data.augmentation import as_augmentation

        if self.augmentation is not None:
            raise UserError(
                "augment: this source is already augmented; put all layers into one list."
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
                    "Check the path or the filter that it was created from."
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
            f"{type(self).__name__}: the first {tries} of {len(self)} records are all bad; "
            "repair the data or the function that parses them."
        )


class _Derived(Source):
    """A source that reads from another one, with its batch size, augmentation and cleaning."""

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
    """The result of `Source.map`: a source and a function of its batches.

    Args:
        source: the source to read.
        fn: applied to each batch that is read.
    """

    def __init__(self, source: Source, fn: Callable[[Any], Any]):
        super().__init__(source)
        self._fn = fn
        self.mapped_after_cleaning = source.cleaning is not None

    @override
    def read(self, indices: np.ndarray) -> Any:
        return self._fn(self._source.read(indices))


class SelectedSource(_Derived):
    """The result of `Source.select`: some examples of another source, numbered from 0.

    Args:
        source: the source to read.
        indices: as in `Source.select`.
    """

    def __init__(self, source: Source, indices: Any):
        super().__init__(source)
        if source.mixture is not None:
            raise UserError(
                "select: a mixture has no examples of its own; select from its sources, then mix "
                "them."
            )
        self._indices = _checked_indices(indices, len(source))

    def __len__(self) -> int:
        return len(self._indices)

    @override
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
            f"select: there is no example {outside[0]}; the source has {length} examples, "
            "numbered from 0."
        )
    return array.astype(np.int64)
