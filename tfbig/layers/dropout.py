"""Dropout whose mask does not depend on the replica that computes an example."""

import math
import random
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig.layers.batch_position import BatchPosition, current_position

_PHILOX = 1  # id of the generator in TensorFlow's ops
_LANES = 4  # 32-bit numbers per counter value


@keras.saving.register_keras_serializable(package="tfbig")
class Dropout(keras.layers.Dropout):
    """Keras's Dropout with a mask that is a function of (seed, step, position in global batch).

    In tfbig's training, it drops the same units of the same examples on one device or many,
    compiled or not, with or without accumulation, and after a resume. Keras's layer draws a mask
    per replica. Outside of tfbig's training, such as in `fit`, it behaves like Keras's layer. The
    first dimension of the inputs is the batch, or has several consecutive rows per example. A
    layer that is called twice in a model drops the same units both times.

    The random bits come from Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    2011), with a counter made of the step, the position and the unit.

    Example:

        x = tfbig.layers.Dropout(0.5)(x)

    Args:
        rate: fraction of the units that is set to 0, from 0 to 1; the others are divided by
            1 - rate.
        noise_shape: shape of the mask; None entries are those of the inputs, and the first entry
            is None. Default: the shape of the inputs.
        seed: int, or None: drawn by Python's random, which RunConfig.tf_random_seed seeds.
        **keywords: arguments of keras.layers.Layer.

    Raises:
        ValueError: rate is out of range, or all examples would share one mask.
    """

    def __init__(
        self, rate: float, noise_shape: Any = None, seed: int | None = None, **keywords: Any
    ) -> None:
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **keywords)
        if noise_shape is not None and noise_shape[0] is not None:
            raise ValueError(
                f"tfbig.layers.Dropout(noise_shape={tuple(noise_shape)}): each example has its own "
                "mask; pass None as the first entry, or use keras.layers.Dropout."
            )

    @override
    def build(self, input_shape: Any) -> None:
        if self.rate > 0:
            seed = random.randrange(2**31) if self.seed is None else self.seed
            # A weight, so that checkpoints save it; int64, because int32 on GPUs is host memory.
            self._key = self.add_weight(
                name="position_seed",
                shape=(),
                dtype="int64",
                initializer=lambda shape, dtype: tf.constant(seed, dtype),
                trainable=False,
            )
        super().build(input_shape)

    @override
    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        position = current_position()
        if not training or self.rate == 0 or position is None:
            return super().call(inputs, training=training)
        if self.rate == 1:
            return tf.zeros_like(inputs)
        kept = kept_units(inputs, self.rate, self.noise_shape, self._key, position)
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros_like(inputs))


def kept_units(
    inputs: tf.Tensor,
    rate: float,
    noise_shape: Sequence[int | None] | None,
    key: tf.Tensor,
    position: BatchPosition,
) -> tf.Tensor:
    """The mask of dropout, True for units that are kept; a row depends only on its position.

    Example: `kept = kept_units(inputs, 0.5, None, tf.constant(7, tf.int64), position)`.

    Args:
        inputs: tensor of shape [rows, …].
        rate: fraction of the units that is dropped, from 0 to below 1.
        noise_shape: shape of the mask, as in Dropout.
        key: int64 scalar; layers with the same key drop the same units.
        position: the position of the rows.

    Returns:
        Bool tensor with the shape of the mask.
    """
    asked = noise_shape or [None] * inputs.shape.rank
    there = [tf.shape(inputs)[i] if n is None else n for i, n in enumerate(inputs.shape)]
    rows, *row = [there[i] if n is None else n for i, n in enumerate(asked)]
    known = all(isinstance(n, int) for n in row)
    units = math.prod(row) if known else tf.reduce_prod(row)
    counts = -(-units // _LANES)  # whole counter values, so that rows do not share one
    first = tf.cast(position.first_of(rows), tf.uint64) * tf.cast(counts, tf.uint64)
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, counts * _LANES],
        key=tf.cast(tf.reshape(key, [1]), tf.uint64),
        counter=tf.stack([first, tf.cast(position.step, tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    bits = tf.reshape(bits[:, :units], [rows, *row])
    return bits >= tf.constant(int(rate * 2**32), tf.uint32)
