"""Image layers whose result per row depends only on the key, the row's position and its image."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override


class StatelessSeeds(keras.random.SeedGenerator):
    """A stateless SeedGenerator: gives a Keras layer one seed after the other without a variable.

    Args:
        key: int32 [2].
    """

    def __init__(self, key: tf.Tensor):
        self._key, self._count = key, 0

    @override
    def next(self, ordered: bool = True) -> tf.Tensor:
        self._count += 1
        return self._key + tf.constant([0, self._count], tf.int32)

    def keys(self, positions: tf.Tensor, batch_size: int) -> tf.Tensor:
        """A key for each position: int32 [n, 2]."""
        whole = tf.random.stateless_uniform(
            [batch_size, 2], self.next(), minval=None, maxval=None, dtype=tf.int32, alg="philox"
        )
        return tf.gather(whole, positions)


class ImageLayer:
    """An image layer of Keras in which each row has its own random numbers.

    Args:
        layer: a Keras layer.
        moves: whether it moves pixels.
        fixed: whether it is deterministic, so that evaluation applies it too.
    """

    def __init__(self, layer: keras.layers.Layer, *, moves: bool = False, fixed: bool = False):
        self.layer, self.moves, self.fixed = layer, moves, fixed
        self.name = type(layer).__name__

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        """Changes images that are rows of a larger batch.

        Args:
            images: float32 [n, height, width, channels], n unknown while tracing.
            positions: int64 [n], their positions in the global batch.
            seeds: generator of seeds.
            batch_size: size of the global batch.
        """
        drawn = self._sample(images.shape[1:], positions, seeds, batch_size)
        return self.layer.transform_images(images, drawn, training=True)

    def _sample(
        self, shape: tf.TensorShape, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> Any:
        """The random numbers of the layer for the whole batch, restricted to `positions`."""

        def draw(count: int) -> Any:
            return self.layer.get_random_transformation(
                tf.zeros([count, *shape]), training=True, seed=seeds
            )

        # Values whose shape changes with one more row are per row. The graph prunes the second
        # draw.
        whole, longer = draw(batch_size), draw(batch_size + 1)
        if whole is None:
            return None

        def rows(value: Any, other: Any) -> Any:
            if tf.is_tensor(value) and value.shape != other.shape:
                return tf.gather(value, positions)
            return value

        return tf.nest.map_structure(rows, whole, longer)

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """Changes any number of images in evaluation."""
        if not self.fixed:
            return images
        one = tf.zeros([1], tf.int64)
        return self.train(images, one, StatelessSeeds(tf.zeros([2], tf.int32)), 1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an image after the layer."""
        return tuple(self.layer.compute_output_shape((None, *shape)))[1:]


class Contrast(ImageLayer):
    """RandomContrast with a mean per image that does not depend on the number of images.

    TensorFlow sums floats in an order that depends on the shape of the tensor. So this layer sums
    integers, in units of 2**-32 of the value range.
    """

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        factor = self._sample(images.shape[1:], positions, seeds, batch_size)["contrast_factor"]
        low, high = self.layer.value_range
        last = self.layer.data_format == "channels_last"
        height, width = images.shape[1:3] if last else images.shape[2:4]
        scale = 2.0**32 / (high - low)
        steps = tf.cast(tf.round(tf.cast(images, tf.float64) * scale), tf.int64)
        total = tf.reduce_sum(steps, axis=[1, 2] if last else [2, 3], keepdims=True)
        mean = tf.cast(tf.cast(total, tf.float64) / (scale * height * width), tf.float32)
        return tf.clip_by_value((images - mean) * tf.cast(factor, tf.float32) + mean, low, high)


class CalledLayer(ImageLayer):
    """A layer without random numbers and `transform_images`, which is called."""

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        with tf.init_scope():  # its variables must outlive the traced function
            if not self.layer.built:
                self.layer.build((None, *images.shape[1:]))
        return self.layer(images)


class PerImage(ImageLayer):
    """A layer that is applied to one image at a time, because it does not treat rows separately.

    Equalization uses one histogram for all images; RandomElasticTransform seeds random numbers
    while it transforms.
    """

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        def one(row: Any) -> Any:
            image, key = row[0][None], row[1]
            drawn = self.layer.get_random_transformation(
                image, training=True, seed=StatelessSeeds(key)
            )
            return tf.cast(self.layer.transform_images(image, drawn, training=True)[0], tf.float32)

        if self.fixed:
            return self.evaluate(images)
        keys = seeds.keys(positions, batch_size)
        return tf.map_fn(one, (images, keys), fn_output_signature=self._signature(images))

    @override
    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        if not self.fixed:
            return images

        def one(image: tf.Tensor) -> Any:
            return tf.cast(self.layer.transform_images(image[None], None)[0], tf.float32)

        return tf.map_fn(one, images, fn_output_signature=self._signature(images))

    def _signature(self, images: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec(images.shape[1:], tf.float32)


class Crop(ImageLayer):
    """RandomCrop with a random offset per image; a center crop in evaluation.

    An image that is smaller than the crop is resized to it, as in CenterCrop.
    """

    def __init__(self, layer: keras.layers.RandomCrop):
        super().__init__(layer, moves=True)
        size = dict(height=layer.height, width=layer.width, data_format=layer.data_format)
        self._centre = keras.layers.CenterCrop(**size, dtype="float32")

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        axes = (1, 2) if self.layer.data_format == "channels_last" else (2, 3)
        sizes = (self.layer.height, self.layer.width)
        if any(images.shape[axis] < size for axis, size in zip(axes, sizes, strict=True)):
            return self.evaluate(images)
        for axis, size in zip(axes, sizes, strict=True):
            starts = tf.random.stateless_uniform(
                [batch_size],
                seeds.next(),
                maxval=images.shape[axis] - size + 1,
                dtype=tf.int32,
                alg="philox",
            )
            indices = tf.gather(starts, positions)[:, None] + tf.range(size)
            # [n, size] against [n, …]: each row has its own indices along the axis
            images = tf.gather(images, indices, axis=axis, batch_dims=1)
        return images

    @override
    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        return self._centre.transform_images(images)

    @override
    def output_shape(self, shape: Any) -> Any:
        return tuple(self._centre.compute_output_shape((None, *shape)))[1:]


class OneOf(ImageLayer):
    """Applies one of several layers to each image, chosen at random by the image's position.

    Args:
        layers: the layers to choose from.
        or_none: whether "no layer" is one more choice with the same probability.
    """

    def __init__(self, layers: Sequence[ImageLayer], or_none: bool = False):
        self.layers, self.or_none = list(layers), or_none
        self.name, self.moves, self.fixed = "OneOf", True, False

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        count = len(self.layers) + self.or_none
        chosen = tf.random.stateless_uniform(
            [batch_size], seeds.next(), maxval=count, dtype=tf.int32, alg="philox"
        )
        chosen = tf.gather(chosen, positions)
        for number, layer in enumerate(self.layers):
            mine = tf.where(chosen == number)
            rows = tf.gather(images, mine[:, 0])
            changed = layer.train(rows, tf.gather(positions, mine[:, 0]), seeds, batch_size)
            images = tf.tensor_scatter_nd_update(images, mine, tf.cast(changed, tf.float32))
        return images


_OPERATIONS = (
    "shear",
    "translation",
    "rotation",
    "posterization",
    "solarization",
    "auto_contrast",
    "equalization",
    "brightness",
    "color_degeneration",
    "contrast",
    "sharpness",
)
_FOR_ALL = 7  # AugMix(all_ops=False) uses the first 7 operations


def _operations(
    layer: keras.layers.Layer, make: Callable[[keras.layers.Layer], ImageLayer], count: int
) -> list[ImageLayer]:
    """The layers inside Keras's RandAugment or AugMix."""
    found = []
    for name in _OPERATIONS[:count]:
        inner = getattr(layer, f"random_{name}", None) or getattr(layer, name)
        found.append(make(inner))
    return found


class RandAugment(ImageLayer):
    """`num_ops` random operations per image (Cubuk et al., 2020).

    Args:
        layer: the Keras layer, which contains the operations.
        make: returns an ImageLayer for a Keras layer.
    """

    def __init__(
        self,
        layer: keras.layers.RandAugment,
        make: Callable[[keras.layers.Layer], ImageLayer],
    ):
        super().__init__(layer, moves=True)
        self._one_of = OneOf(_operations(layer, make, len(_OPERATIONS)))

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        for _ in range(self.layer.num_ops):
            images = self._one_of.train(images, positions, seeds, batch_size)
        return images


class AugMix(ImageLayer):
    """Random chains of operations, mixed per image (Hendrycks et al., 2020).

    Args:
        layer: the Keras layer, which contains the operations.
        make: returns an ImageLayer for a Keras layer.
    """

    def __init__(
        self, layer: keras.layers.AugMix, make: Callable[[keras.layers.Layer], ImageLayer]
    ):
        super().__init__(layer, moves=True)
        count = len(_OPERATIONS) if layer.all_ops else _FOR_ALL
        self._one_of = OneOf(_operations(layer, make, count), or_none=True)

    @override
    def train(
        self, images: tf.Tensor, positions: tf.Tensor, seeds: StatelessSeeds, batch_size: int
    ) -> tf.Tensor:
        alpha, chains = self.layer.alpha, self.layer.num_chains
        low, high = self.layer.value_range
        gamma = keras.random.gamma([batch_size, chains], alpha, seed=seeds, dtype="float32")
        shares = tf.gather(gamma / tf.reduce_sum(gamma, axis=1, keepdims=True), positions)
        own = keras.random.beta([batch_size], alpha, alpha, seed=seeds, dtype="float32")
        own = tf.gather(own, positions)[:, None, None, None]
        # All chains at once, as rows of a batch that is `chains` times as large.
        chain_rows = tf.reshape(
            positions[:, None] * chains + tf.range(chains, dtype=tf.int64), [-1]
        )
        changed = tf.repeat(images, chains, axis=0)
        for _ in range(self.layer.chain_depth):
            changed = self._one_of.train(changed, chain_rows, seeds, batch_size * chains)
        changed = tf.reshape(changed, [-1, chains, *images.shape[1:]])
        mixed = tf.zeros_like(images)
        for chain in range(chains):
            mixed += changed[:, chain] * shares[:, chain, None, None, None]
        return tf.clip_by_value(own * images + (1 - own) * mixed, low, high)
