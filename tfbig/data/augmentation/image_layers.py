"""Image layers whose every row is a function of the key, the row's position and its image."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


class Draws(keras.random.SeedGenerator):
    """Hands a layer of Keras one seed after the other, without a variable that counts them.

    Args:
        key: int32 [2].
    """

    def __init__(self, key: tf.Tensor):
        self._key, self._count = key, 0

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
    """A layer of Keras for images, in such a form that each row has its own draws.

    Args:
        layer: of Keras.
        moves: whether pixels get to other places.
        fixed: nothing in it is random, so that evaluation does it too.
    """

    def __init__(self, layer: keras.layers.Layer, *, moves: bool = False, fixed: bool = False):
        self.layer, self.moves, self.fixed = layer, moves, fixed
        self.name = type(layer).__name__

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        """Changes images that are rows of a larger batch.

        Args:
            images: float32 [n, height, width, channels], n unknown while tracing.
            positions: int64 [n], their places in the global batch.
            draws: gives seeds.
            batch_size: of the whole global batch.
        """
        drawn = self._drawn(images.shape[1:], positions, draws, batch_size)
        return self.layer.transform_images(images, drawn, training=True)

    def _drawn(
        self, shape: tf.TensorShape, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> Any:
        """The rows of what the layer draws for the whole batch."""

        def draw(count: int) -> Any:
            return self.layer.get_random_transformation(
                tf.zeros([count, *shape]), training=True, seed=draws
            )

        # Which values belong to single rows shows when one more row is drawn; it is not computed.
        whole, longer = draw(batch_size), draw(batch_size + 1)
        if whole is None:
            return None

        def rows(value: Any, other: Any) -> Any:
            if tf.is_tensor(value) and value.shape != other.shape:
                return tf.gather(value, positions)
            return value

        return tf.nest.map_structure(rows, whole, longer)

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """Changes images of any number in evaluation."""
        if not self.fixed:
            return images
        one = tf.zeros([1], tf.int64)
        return self.train(images, one, Draws(tf.zeros([2], tf.int32)), 1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an image after the layer."""
        return tuple(self.layer.compute_output_shape((None, *shape)))[1:]


class Contrast(ImageLayer):
    """RandomContrast with means of each image that do not depend on how many images there are.

    TensorFlow adds floats up in an order that depends on the shape of the whole; so integers are
    added up here, which are steps of 2**-32 of the range of values.
    """

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        factor = self._drawn(images.shape[1:], positions, draws, batch_size)["contrast_factor"]
        low, high = self.layer.value_range
        last = self.layer.data_format == "channels_last"
        height, width = images.shape[1:3] if last else images.shape[2:4]
        scale = 2.0**32 / (high - low)
        steps = tf.cast(tf.round(tf.cast(images, tf.float64) * scale), tf.int64)
        total = tf.reduce_sum(steps, axis=[1, 2] if last else [2, 3], keepdims=True)
        mean = tf.cast(tf.cast(total, tf.float64) / (scale * height * width), tf.float32)
        return tf.clip_by_value((images - mean) * tf.cast(factor, tf.float32) + mean, low, high)


class Called(ImageLayer):
    """A layer that has no draws and no transformation: it is called."""

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        with tf.init_scope():  # what it builds must outlive the function that is being traced
            if not self.layer.built:
                self.layer.build((None, *images.shape[1:]))
        return self.layer(images)


class OneByOne(ImageLayer):
    """A layer that needs to see one image at a time, because it looks at the batch as a whole.

    Equalization counts the colours of all images together; RandomElasticTransform draws while it
    transforms.
    """

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        def one(row: Any) -> Any:
            image, key = row[0][None], row[1]
            drawn = self.layer.get_random_transformation(image, training=True, seed=Draws(key))
            return tf.cast(self.layer.transform_images(image, drawn, training=True)[0], tf.float32)

        if self.fixed:
            return self.evaluate(images)
        keys = draws.keys(positions, batch_size)
        return tf.map_fn(one, (images, keys), fn_output_signature=self._signature(images))

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        if not self.fixed:
            return images

        def one(image: tf.Tensor) -> Any:
            return tf.cast(self.layer.transform_images(image[None], None)[0], tf.float32)

        return tf.map_fn(one, images, fn_output_signature=self._signature(images))

    def _signature(self, images: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec(images.shape[1:], tf.float32)


class Crop(ImageLayer):
    """RandomCrop, at a place of its own for each image; the centre in evaluation.

    An image that is smaller than the crop is resized to it, as CenterCrop does.
    """

    def __init__(self, layer: keras.layers.RandomCrop):
        super().__init__(layer, moves=True)
        size = dict(height=layer.height, width=layer.width, data_format=layer.data_format)
        self._centre = keras.layers.CenterCrop(**size, dtype="float32")

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        axes = (1, 2) if self.layer.data_format == "channels_last" else (2, 3)
        sizes = (self.layer.height, self.layer.width)
        if any(images.shape[axis] < size for axis, size in zip(axes, sizes, strict=True)):
            return self.evaluate(images)
        for axis, size in zip(axes, sizes, strict=True):
            starts = tf.random.stateless_uniform(
                [batch_size],
                draws.next(),
                maxval=images.shape[axis] - size + 1,
                dtype=tf.int32,
                alg="philox",
            )
            places = tf.gather(starts, positions)[:, None] + tf.range(size)
            # [n, size] against [n, …]: each row has its own places along the axis
            images = tf.gather(images, places, axis=axis, batch_dims=1)
        return images

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        return self._centre.transform_images(images)

    def output_shape(self, shape: Any) -> Any:
        return tuple(self._centre.compute_output_shape((None, *shape)))[1:]


class OneOf(ImageLayer):
    """One of several layers for each image, chosen by the image's position; or none.

    Args:
        layers: the choice.
        or_none: leaving the image as it is, is as likely as each of the layers.
    """

    def __init__(self, layers: Sequence[ImageLayer], or_none: bool = False):
        self.layers, self.or_none = list(layers), or_none
        self.name, self.moves, self.fixed = "OneOf", True, False

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        count = len(self.layers) + self.or_none
        chosen = tf.random.stateless_uniform(
            [batch_size], draws.next(), maxval=count, dtype=tf.int32, alg="philox"
        )
        chosen = tf.gather(chosen, positions)
        for number, layer in enumerate(self.layers):
            mine = tf.where(chosen == number)
            rows = tf.gather(images, mine[:, 0])
            changed = layer.train(rows, tf.gather(positions, mine[:, 0]), draws, batch_size)
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
_FOR_ALL = 7  # AugMix(all_ops=False) has the first of them


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
    """`num_ops` operations, chosen anew for each image (Cubuk et al., 2020).

    Args:
        layer: Keras's, which makes the operations.
        make: an ImageLayer for a layer of Keras.
    """

    def __init__(
        self,
        layer: keras.layers.RandAugment,
        make: Callable[[keras.layers.Layer], ImageLayer],
    ):
        super().__init__(layer, moves=True)
        self._one_of = OneOf(_operations(layer, make, len(_OPERATIONS)))

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        for _ in range(self.layer.num_ops):
            images = self._one_of.train(images, positions, draws, batch_size)
        return images


class AugMix(ImageLayer):
    """Chains of operations, chosen and mixed for each image (Hendrycks et al., 2020).

    Args:
        layer: Keras's, which makes the operations.
        make: an ImageLayer for a layer of Keras.
    """

    def __init__(
        self, layer: keras.layers.AugMix, make: Callable[[keras.layers.Layer], ImageLayer]
    ):
        super().__init__(layer, moves=True)
        count = len(_OPERATIONS) if layer.all_ops else _FOR_ALL
        self._one_of = OneOf(_operations(layer, make, count), or_none=True)

    def train(
        self, images: tf.Tensor, positions: tf.Tensor, draws: Draws, batch_size: int
    ) -> tf.Tensor:
        alpha, chains = self.layer.alpha, self.layer.num_chains
        low, high = self.layer.value_range
        gamma = keras.random.gamma([batch_size, chains], alpha, seed=draws, dtype="float32")
        shares = tf.gather(gamma / tf.reduce_sum(gamma, axis=1, keepdims=True), positions)
        own = keras.random.beta([batch_size], alpha, alpha, seed=draws, dtype="float32")
        own = tf.gather(own, positions)[:, None, None, None]
        # All chains at once, as so many more rows of so much larger a batch.
        places = tf.reshape(positions[:, None] * chains + tf.range(chains, dtype=tf.int64), [-1])
        changed = tf.repeat(images, chains, axis=0)
        for _ in range(self.layer.chain_depth):
            changed = self._one_of.train(changed, places, draws, batch_size * chains)
        changed = tf.reshape(changed, [-1, chains, *images.shape[1:]])
        mixed = tf.zeros_like(images)
        for chain in range(chains):
            mixed += changed[:, chain] * shares[:, chain, None, None, None]
        return tf.clip_by_value(own * images + (1 - own) * mixed, low, high)
