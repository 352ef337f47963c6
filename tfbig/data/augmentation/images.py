"""Consecutive image layers as one compiled function of images, their positions and a key."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.augmentation.image_layers import ImageLayer, StatelessSeeds
from tfbig.data.augmentation.transform import Batch, Draw, Transform
from tfbig.errors import UserError


class Images(Transform):
    """Applies image layers one after the other to images of shape [n, height, width, channels].

    One function is compiled per shape of images, for any number of images.

    Args:
        layers: the ImageLayers.
    """

    def __init__(self, layers: Sequence[ImageLayer]):
        self.layers = list(layers)
        self._functions: dict = {}

    @property
    @override
    def name(self) -> str:
        return next((layer.name for layer in self.layers if layer.moves), self.layers[0].name)

    @property
    @override
    def moves(self) -> bool:
        return any(layer.moves for layer in self.layers)

    @override
    def train(self, batch: Batch, draw: Draw, positions: np.ndarray, wanted: np.ndarray) -> Batch:
        with tf.device("CPU:0"):
            images = tf.convert_to_tensor(batch.features)
            function = self._function(images.shape[1:], images.dtype, draw.batch_size)
            changed = function(images, tf.constant(positions), tf.constant(draw.key()))
        return batch._replace(features=changed)

    @override
    def evaluate(self, batch: Batch) -> Batch:
        with tf.device("CPU:0"):
            images = tf.convert_to_tensor(batch.features)
            changed = self._function(images.shape[1:], images.dtype, None)(images)
        return batch._replace(features=changed)

    @override
    def output_spec(self, spec: Batch) -> Batch:
        _check_images(self.layers[0].name, spec.features)
        shape = tuple(spec.features.shape)
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return spec._replace(features=tf.TensorSpec(shape, tf.float32))

    def _function(self, shape: tf.TensorShape, dtype: tf.DType, batch_size: int | None) -> Any:
        """The compiled function for training, or for evaluation if batch_size is None."""
        key = (tuple(shape), dtype, batch_size)
        if key not in self._functions:
            _check_images(self.layers[0].name, tf.TensorSpec(shape, dtype))
            signature = [tf.TensorSpec([None, *shape], dtype)]
            body = self._evaluated
            if batch_size is not None:
                signature += [tf.TensorSpec([None], tf.int64), tf.TensorSpec([2], tf.int32)]
                body = functools.partial(self._trained, batch_size)
            # Keras layers need no autograph
            function = tf.function(body, autograph=False)
            self._functions[key] = function.get_concrete_function(*signature)
        return self._functions[key]

    def _trained(
        self, batch_size: int, images: tf.Tensor, positions: tf.Tensor, key: tf.Tensor
    ) -> tf.Tensor:
        seeds = StatelessSeeds(key)
        images = tf.cast(images, tf.float32)
        for layer in self.layers:
            images = _call_layer(layer, layer.train, images, positions, seeds, batch_size)
        return images

    def _evaluated(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        for layer in self.layers:
            images = _call_layer(layer, layer.evaluate, images)
        return images


def _check_images(name: str, spec: tf.TensorSpec) -> None:
    shape = spec.shape
    if shape.rank != 3 or not shape.is_fully_defined():
        hint = "; write source.map(lambda images: images[..., None])" if shape.rank == 2 else ""
        raise UserError(
            f"{name} needs images of shape [height, width, channels], all of one size; "
            f"received {list(shape)}{hint}."
        )
    if not (spec.dtype.is_floating or spec.dtype.is_integer):
        raise UserError(f"{name} needs numeric images; received {spec.dtype.name}.")


def _call_layer(
    layer: ImageLayer, function: Callable, images: tf.Tensor, *arguments: Any
) -> tf.Tensor:
    """Calls a layer while the function is traced; converts its errors to UserErrors."""
    try:
        return tf.cast(function(images, *arguments), tf.float32)
    except (ValueError, TypeError, NotImplementedError, tf.errors.InvalidArgumentError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{layer.name} cannot be applied to images of shape {list(images.shape[1:])}: {reason}"
        ) from error
