"""The interface of transforms, and the state that their random numbers depend on."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.errors import UserError

_PURPOSE = 0x6175676D  # "augm": separates these random numbers from other uses of the seed


class Draw(NamedTuple):
    """The values that the random numbers of a transform may depend on.

    Attributes:
        seed: seed of the run.
        step: number of the global batch.
        number: index of the transform in its list.
        batch_size: examples in a full global batch.
    """

    seed: int
    step: int
    number: int
    batch_size: int

    def rng(self) -> np.random.Generator:
        """A NumPy generator for this draw, with the same numbers in any process."""
        return np.random.Generator(np.random.Philox(self._words()))

    def key(self) -> np.ndarray:
        """A seed for TensorFlow's stateless random ops: int32 [2]."""
        return self._words().generate_state(2, np.uint32).view(np.int32)

    def _words(self) -> np.random.SeedSequence:
        mask = (1 << 64) - 1
        words = [int(n) & mask for n in (self.seed, self.step, self.number)]
        return np.random.SeedSequence([_PURPOSE, *np.array(words, "<u8").view("<u4").tolist()])


class Batch(NamedTuple):
    """The parts of a batch; None: the batch has no such part."""

    features: Any
    labels: Any = None
    weight: Any = None


def unpack(batch: Any) -> Batch:
    """Converts `features`, `(features, labels)` or `(features, labels, sample_weight)`."""
    if not isinstance(batch, tuple):
        return Batch(batch)
    if not 1 <= len(batch) <= 3:
        raise UserError(
            f"a batch is features, (features, labels) or (features, labels, sample_weight); "
            f"received a tuple of {len(batch)}."
        )
    return Batch(*batch)


def pack(batch: Batch) -> Any:
    """The inverse of `unpack`."""
    if batch.weight is not None:
        return tuple(batch)
    return batch.features if batch.labels is None else (batch.features, batch.labels)


class Transform:
    """A change of batches. Subclass it for your own transform, and add it to the list of layers.

    The change of the example at a position of the global batch must depend only on the `Draw` and
    the position. Draw random numbers for `draw.batch_size` examples and select the rows:

        class Noise(tfbig.data.augmentation.Transform):
            def train(self, batch, draw, positions, wanted):
                noise = draw.rng().normal(size=[draw.batch_size, 784]).astype("float32")
                return batch._replace(features=batch.features + noise[positions])

    Attributes:
        name: name in error messages.
        moves: whether it moves pixels or tokens of an example, so that labels per pixel or token
            would no longer match.
    """

    moves = False

    @property
    def name(self) -> str:
        """The name in error messages; by default that of the class."""
        return type(self).__name__

    def sources(self, draw: Draw, positions: np.ndarray) -> np.ndarray:
        """The positions that are needed to compute `positions`: a sorted superset of them."""
        return positions

    def train(self, batch: Batch, draw: Draw, positions: np.ndarray, wanted: np.ndarray) -> Batch:
        """Changes a batch in training.

        Args:
            batch: the batch; its `features` are the feature that the Augmentation changes.
            draw: the values that random numbers may depend on.
            positions: sorted int64 [n]: positions of the rows in the global batch.
            wanted: positions of the rows to return, a subset of `positions`; equal to
                `positions` unless `sources` is overridden.
        """
        raise NotImplementedError(f"{self.name} implements train(batch, draw, positions, wanted).")

    def evaluate(self, batch: Batch) -> Batch:
        """Changes a batch in evaluation, without random numbers."""
        return batch

    def output_spec(self, spec: Batch) -> Batch:
        """The spec of one example after the change, in the structure that `train` returns."""
        return spec


def rows_of(array: Any, positions: np.ndarray, wanted: np.ndarray) -> Any:
    """Selects the rows at `wanted` from nested arrays with the rows at `positions`."""
    if array is None or len(wanted) == len(positions):
        return array
    rows = np.searchsorted(positions, wanted)
    return tf.nest.map_structure(lambda a: np.asarray(a)[rows], array)
