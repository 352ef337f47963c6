"""Dropout whose mask does not depend on where an example is computed."""

import math
import random
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.layers.place import Place, here

_PHILOX = 1  # the number of this generator in TensorFlow's operations
_LANES = 4  # 32-bit numbers that one value of its counter gives


@keras.saving.register_keras_serializable(package="tfbig")
class Dropout(keras.layers.Dropout):
    """Keras's Dropout with a mask that is a function of (seed, step, place in the global batch).

    In tfbig's training, the same examples lose the same units on one device or many, compiled
    or not, with or without accumulation, and after resuming. Keras's own layer draws for each
    replica. Outside of tfbig's training (in `fit`, say) it is Keras's own. Its first dimension is
    that of the batch, or holds several rows of each example, one example after the other. A layer
    that is called twice in a model drops the same units both times.

    The bits are those of Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    2011) at a counter that tells the step, the place and the unit.

    Example:

        x = tfbig.layers.Dropout(0.5)(x)

    Args:
        rate: share of the units that is set to 0, from 0 to 1; the others are divided by
            1 - rate.
        noise_shape: shape of the mask, None where it is that of the inputs; its first entry is
            None. Default: the shape of the inputs.
        seed: int, or None: drawn by Python's random, which RunConfig.tf_random_seed sets.
        **keywords: of keras.layers.Layer.

    Raises:
        ValueError: rate is out of range, or the mask would be shared by all examples.
    """

    def __init__(
        self, rate: float, noise_shape: Any = None, seed: int | None = None, **keywords: Any
    ) -> None:
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **keywords)
        if noise_shape is not None and noise_shape[0] is not None:
            raise ValueError(
                f"tfbig.layers.Dropout(noise_shape={tuple(noise_shape)}): each example has its own "
                "mask; write None first, or use keras.layers.Dropout."
            )

    def build(self, input_shape: Any) -> None:
        if self.rate > 0:
            seed = random.randrange(2**31) if self.seed is None else self.seed
            # A weight, so that a checkpoint keeps it; int64, since GPUs keep int32 on the host.
            self._key = self.add_weight(
                name="position_seed",
                shape=(),
                dtype="int64",
                initializer=lambda shape, dtype: tf.constant(seed, dtype),
                trainable=False,
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        place = here()
        if not training or self.rate == 0 or place is None:
            return super().call(inputs, training=training)
        if self.rate == 1:
            return tf.zeros_like(inputs)
        kept = kept_units(inputs, self.rate, self.noise_shape, self._key, place)
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros_like(inputs))


def kept_units(
    inputs: tf.Tensor,
    rate: float,
    noise_shape: Sequence[int | None] | None,
    key: tf.Tensor,
    place: Place,
) -> tf.Tensor:
    """Which units dropout keeps: bools of the mask's shape; a row's depend on its place alone.

    Example: `kept = kept_units(inputs, 0.5, None, tf.constant(7, tf.int64), place)`.

    Args:
        inputs: of shape [rows, …].
        rate: share of the units that is dropped, from 0 to below 1.
        noise_shape: the mask's shape, None where it is that of the inputs, and first; or None.
        key: int64 scalar; two layers of one key drop the same units.
        place: where the rows stand.
    """
    asked = noise_shape or [None] * inputs.shape.rank
    there = [tf.shape(inputs)[i] if n is None else n for i, n in enumerate(inputs.shape)]
    rows, *row = [there[i] if n is None else n for i, n in enumerate(asked)]
    known = all(isinstance(n, int) for n in row)
    units = math.prod(row) if known else tf.reduce_prod(row)
    counts = -(-units // _LANES)  # whole values of the counter, so that rows do not share one
    first = tf.cast(place.first_of(rows), tf.uint64) * tf.cast(counts, tf.uint64)
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, counts * _LANES],
        key=tf.cast(tf.reshape(key, [1]), tf.uint64),
        counter=tf.stack([first, tf.cast(place.step, tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    bits = tf.reshape(bits[:, :units], [rows, *row])
    return bits >= tf.constant(int(rate * 2**32), tf.uint32)
