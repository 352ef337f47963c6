"""MixUp and CutMix: examples mixed with partners from the same global batch."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.augmentation.transform import Batch, Draw, Transform
from tfbig.errors import UserError


class Mixing(Transform):
    """Mixes each example, its labels and its sample weight with those of a partner.

    The partners are a random permutation of the global batch, a function of (seed, step).

    Args:
        layer: keras.layers.MixUp or CutMix, whose arguments are used.
    """

    def __init__(self, layer: keras.layers.Layer):
        self.layer = layer

    @property
    @override
    def name(self) -> str:
        return type(self.layer).__name__

    @override
    def sources(self, draw: Draw, positions: np.ndarray) -> np.ndarray:
        return np.union1d(positions, self.partners(draw.rng(), draw)[positions])

    def partners(self, rng: np.random.Generator, draw: Draw) -> np.ndarray:
        """The partner of each position; the first random numbers that are drawn."""
        return rng.permutation(draw.batch_size)

    @override
    def train(self, batch: Batch, draw: Draw, positions: np.ndarray, wanted: np.ndarray) -> Batch:
        rng = draw.rng()
        partner = self.partners(rng, draw)[wanted]
        own = np.searchsorted(positions, wanted)
        other = np.minimum(np.searchsorted(positions, partner), len(positions) - 1)
        other = np.where(positions[other] == partner, other, own)  # without a partner: itself
        x = np.asarray(batch.features)
        x, y = x[own].astype(np.float32), x[other].astype(np.float32)
        features, share = self.mix(x, y, rng, draw, wanted)

        def mixed(array: Any) -> np.ndarray:
            array = np.asarray(array)
            if array.dtype.kind != "f":
                self._refuse(tf.TensorSpec(array.shape[1:], tf.as_dtype(array.dtype)))
            return _blend(array[own], array[other], share.astype(array.dtype))

        labels, weight = (
            None if part is None else tf.nest.map_structure(mixed, part)
            for part in (batch.labels, batch.weight)
        )  # fmt: skip
        return Batch(features, labels, weight)

    def mix(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rng: np.random.Generator,
        draw: Draw,
        wanted: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mixed examples, and the share of the original example in each: float [n]."""
        raise NotImplementedError

    @override
    def evaluate(self, batch: Batch) -> Batch:
        return batch._replace(features=np.asarray(batch.features, np.float32))

    @override
    def output_spec(self, spec: Batch) -> Batch:
        features = spec.features
        if not features.dtype.is_floating and not features.dtype.is_integer:
            raise UserError(f"{self.name} mixes numbers; the features are {features.dtype.name}.")
        if spec.labels is not None:
            for labels in tf.nest.flatten(spec.labels):
                if not labels.dtype.is_floating:
                    self._refuse(labels)
        return spec._replace(features=tf.TensorSpec(features.shape, tf.float32))

    def _refuse(self, labels: tf.TensorSpec) -> None:
        raise UserError(
            f"{self.name} mixes labels, so they must be floats (one-hot for classes); received "
            f"{labels.dtype.name} of shape {list(labels.shape)}. Use source.map(lambda batch: "
            "(batch[0], keras.utils.to_categorical(batch[1], num_classes)))."
        )


def _blend(x: np.ndarray, y: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share.reshape([-1] + [1] * (x.ndim - 1))
    return share * x + (1 - share) * y


class MixUp(Mixing):
    """Weighted means of pairs of examples of any shape (Zhang et al., 2018)."""

    @override
    def mix(self, x: tf.Tensor, y: Any, rng: Any, draw: Any, wanted: Any) -> Any:
        share = rng.beta(self.layer.alpha, self.layer.alpha, draw.batch_size)[wanted]
        return _blend(x, y, share.astype(np.float32)), share


class CutMix(Mixing):
    """Replaces a box in each image by that of another image (Yun et al., 2019)."""

    @override
    def mix(self, x: tf.Tensor, y: Any, rng: Any, draw: Any, wanted: Any) -> Any:
        channels_last = self.layer.data_format == "channels_last"
        size = x.shape[1:3] if channels_last else x.shape[2:4]
        alpha = rng.uniform(*self.layer.factor) + 1e-6  # one for the whole batch, as in Keras
        side = np.sqrt(1 - rng.beta(alpha, alpha, draw.batch_size))
        inside, area = [], 1.0
        for axis, length in enumerate(size):
            cut = np.rint(side * length).astype(int)
            start = np.floor(rng.random(draw.batch_size) * (length - cut + 1)).astype(int)
            start, cut = start[wanted, None], cut[wanted, None]
            index = np.arange(length)
            inside.append((index >= start) & (index < start + cut))
            area = area * cut[:, 0] / size[axis]
        box = inside[0][:, :, None] & inside[1][:, None, :]
        box = box[..., None] if channels_last else box[:, None]
        return np.where(box, y, x), 1 - area

    @override
    def output_spec(self, spec: Batch) -> Batch:
        if spec.features.shape.rank != 3:
            raise UserError(
                f"CutMix needs images of shape [height, width, channels]; received "
                f"{list(spec.features.shape)}."
            )
        for labels in tf.nest.flatten([spec.labels, spec.weight]):
            if labels is not None and labels.shape.rank > 1:
                raise UserError(
                    "CutMix mixes one label per image by the share of the pixels; it does not "
                    f"support labels or weights per pixel, and these have the shape "
                    f"{list(labels.shape)}. Use MixUp, or write a "
                    "tfbig.data.augmentation.Transform that cuts labels as it cuts pixels."
                )
        return super().output_spec(spec)
