"""One change of a batch, and what its randomness may depend on."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.errors import UserError

_PURPOSE = 0x6175676D  # "augm": no other use of the seed draws the same numbers


class Draw(NamedTuple):
    """All that the changes of one global batch may depend on.

    Attributes:
        seed: the run's seed.
        step: the number of the global batch.
        number: the transform's number in its list.
        batch_size: examples in a whole global batch.
    """

    seed: int
    step: int
    number: int
    batch_size: int

    def rng(self) -> np.random.Generator:
        """NumPy's generator for this draw: the same numbers in any process."""
        return np.random.Generator(np.random.Philox(self._words()))

    def key(self) -> np.ndarray:
        """TensorFlow's key for this draw: int32 [2]."""
        return self._words().generate_state(2, np.uint32).view(np.int32)

    def _words(self) -> np.random.SeedSequence:
        mask = (1 << 64) - 1
        words = [int(n) & mask for n in (self.seed, self.step, self.number)]
        return np.random.SeedSequence([_PURPOSE, *np.array(words, "<u8").view("<u4").tolist()])


class Batch(NamedTuple):
    """The parts of a batch; None: there is no such part."""

    features: Any
    labels: Any = None
    weight: Any = None


def unpack(batch: Any) -> Batch:
    """`features`, `(features, labels)` or `(features, labels, sample_weight)` by name."""
    if not isinstance(batch, tuple):
        return Batch(batch)
    if not 1 <= len(batch) <= 3:
        raise UserError(
            f"a batch is features, (features, labels) or (features, labels, sample_weight); "
            f"received a tuple of {len(batch)}."
        )
    return Batch(*batch)


def pack(batch: Batch) -> Any:
    """What `unpack` was given."""
    if batch.weight is not None:
        return tuple(batch)
    return batch.features if batch.labels is None else (batch.features, batch.labels)


class Transform:
    """A change of batches; subclass it for one of your own, and put it in the list of layers.

    What happens to the example at a position of the global batch must be a function of its
    `Draw` and that position alone. Draw for all of `draw.batch_size` examples and take the rows:

        class Noise(tfbig.data.augmentation.Transform):
            def train(self, batch, draw, positions, wanted):
                noise = draw.rng().normal(size=[draw.batch_size, 784]).astype("float32")
                return batch._replace(features=batch.features + noise[positions])

    Attributes:
        name: for messages.
        moves: it moves the parts of an example to other places, so that labels which belong to
            its pixels or tokens would no longer fit.
    """

    moves = False

    @property
    def name(self) -> str:
        return type(self).__name__

    def sources(self, draw: Draw, positions: np.ndarray) -> np.ndarray:
        """The positions that must be there to make `positions`: sorted, a superset of them."""
        return positions

    def train(self, batch: Batch, draw: Draw, positions: np.ndarray, wanted: np.ndarray) -> Batch:
        """Changes a batch in training.

        Args:
            batch: `features` is the entry that the Augmentation works on.
            draw: what randomness may depend on.
            positions: int64 [n], sorted: where the rows stand in the global batch.
            wanted: those that are returned, a subset of `positions`. They are `positions`
                itself unless `sources` is overridden.
        """
        raise NotImplementedError(f"{self.name} implements train(batch, draw, positions, wanted).")

    def evaluate(self, batch: Batch) -> Batch:
        """Changes a batch in evaluation: nothing random."""
        return batch

    def output_spec(self, spec: Batch) -> Batch:
        """The spec of one example after the change; of the same structure as `train` returns."""
        return spec


def rows_of(array: Any, positions: np.ndarray, wanted: np.ndarray) -> Any:
    """The rows of `wanted` among those of `positions`."""
    if array is None or len(wanted) == len(positions):
        return array
    places = np.searchsorted(positions, wanted)
    return tf.nest.map_structure(lambda a: np.asarray(a)[places], array)
