"""A list of changes, and the examples that each position of a global batch needs for them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.augmentation import making
from tfbig.data.augmentation.transform import Batch, Draw, Transform, pack, rows_of, unpack
from tfbig.errors import UserError


class Augmentation:
    """Random changes of the examples in training, by Keras's preprocessing layers or tfbig's.

    What happens to the example at a position of a global batch is a function of (seed, step,
    position) and the batch size: the same on any number of workers and after a resume.

    Layers of Keras draw for the whole global batch, and the rows of the wanted positions are
    taken. They keep their arguments and meaning, except that

    - their own `seed` is not used: RunConfig.tf_random_seed is the seed of all;
    - RandomCrop, RandAugment, AugMix and RandomElasticTransform choose for each image, where
      Keras chooses once for a batch; Equalization counts the colours of each image, where Keras
      counts those of the whole batch;
    - MixUp and CutMix mix sample weights as they mix labels, and CutMix's box is one of whole
      pixels (Yun et al., 2019: its share of the pixels is the label's).

    Evaluation sees what is not random: Rescaling, Normalization, Resizing, ZeroPadding2D,
    CenterCrop, the centre crop in place of RandomCrop, AutoContrast, Equalization and
    ContrastLimitedAdaptiveHistogramEqualization. TokenMasking and SpanCorruption make the task
    itself: in evaluation their choice is a function of the tokens alone.

    Example:

        source = tfbig.data.ImageFolderSource("photos", image_size=32)
        source = source.augment([
            {"name": "RandomFlip", "mode": "horizontal"},
            {"name": "RandomTranslation", "height_factor": 0.1, "width_factor": 0.1},
        ])

    Args:
        layers: a list of dicts (or ConfigDicts) of a name and arguments; of layers of Keras; of
            tfbig's `TokenMasking`, `SpanCorruption` or other `Transform`s.
        key: which entry of a dict of features is worked on; None: the features are the array.

    Raises:
        UserError: a name or an argument is unknown, or a layer cannot keep the promise above.
    """

    def __init__(self, layers: Iterable[Any], *, key: str | None = None):
        self.transforms = making.make_transforms(layers)
        self.key = key

    def output_spec(self, element_spec: Any) -> Any:
        """The spec of one example after augmentation.

        Args:
            element_spec: the source's: a nested structure of tf.TensorSpec.

        Raises:
            UserError: the layers cannot work on such examples.
        """
        whole = unpack(element_spec)
        spec = self._chosen(whole)
        for transform in self.transforms:
            before, spec = spec, transform.output_spec(spec)
            if transform.moves:
                self._check_company(transform, before, whole)
        return pack(self._put_back(spec, self._others(whole)))

    def needed(self, *, seed: int, step: int, positions: np.ndarray, batch_size: int) -> np.ndarray:
        """The positions whose examples must be read so that `positions` can be augmented.

        Returns:
            int64, sorted, a superset of `positions`: with MixUp's and CutMix's partners.
        """
        return self._stages(seed, step, _sorted(positions), batch_size)[0]

    def train(
        self,
        batch: Any,
        *,
        seed: int,
        step: int,
        positions: np.ndarray,
        batch_size: int,
        wanted: np.ndarray | None = None,
    ) -> Any:
        """Augments examples of one global batch.

        Args:
            batch: nested arrays; row i is the example at `positions[i]`.
            seed, step: of the run, and of the global batch.
            positions: int64 [n], sorted: places in the global batch.
            batch_size: examples in a whole global batch.
            wanted: the positions to return, among `positions`; None: all of them.

        Returns:
            The batch of `wanted`: NumPy arrays or tensors on the CPU. An example whose mixing
            partner is not there is mixed with itself.

        Raises:
            UserError: the layers cannot work on such examples.
        """
        positions = _sorted(positions)
        stages = self._stages(seed, step, positions if wanted is None else wanted, batch_size)
        if not np.isin(stages[-1], positions).all():
            raise ValueError(f"wanted={wanted!r} are not all among positions={positions!r}")
        stages = [stage[np.isin(stage, positions)] for stage in stages]
        whole = unpack(batch)
        first = Batch(*(rows_of(entry, positions, stages[0]) for entry in whole))
        part = self._chosen(first)
        for number, transform in enumerate(self.transforms):
            draw = Draw(seed, step, number, batch_size)
            part = transform.train(part, draw, stages[number], stages[number + 1])
        others = rows_of(self._others(whole), positions, stages[-1])
        return pack(self._put_back(part, others))

    def evaluate(self, batch: Any) -> Any:
        """Does to a batch what is not random; its structure is that of training."""
        whole = unpack(batch)
        part = self._chosen(whole)
        for transform in self.transforms:
            part = transform.evaluate(part)
        return pack(self._put_back(part, self._others(whole)))

    def _stages(
        self, seed: int, step: int, wanted: np.ndarray, batch_size: int
    ) -> list[np.ndarray]:
        """The positions that are there before each transform, and after the last."""
        stages = [_sorted(wanted)]
        for number in reversed(range(len(self.transforms))):
            draw = Draw(seed, step, number, batch_size)
            stages.insert(0, self.transforms[number].sources(draw, stages[0]))
        return stages

    def _chosen(self, whole: Batch) -> Batch:
        features = whole.features
        if self.key is None:
            if tf.nest.is_nested(features):
                names = ", ".join(map(repr, features)) if isinstance(features, dict) else "a tuple"
                raise UserError(
                    f"augmentation: the features have several entries ({names}); say which one "
                    'is meant: tfbig.data.augmentation.Augmentation(layers, key="image").'
                )
            return whole
        if not isinstance(features, dict) or self.key not in features:
            there = ", ".join(map(repr, features)) if isinstance(features, dict) else "no dict"
            raise UserError(
                f"augmentation: key={self.key!r} is no entry of the features ({there}); "
                "leave key out if the features are one array."
            )
        return whole._replace(features=features[self.key])

    def _others(self, whole: Batch) -> dict:
        """The entries of a dict of features that are left as they are."""
        if self.key is None:
            return {}
        return {name: value for name, value in whole.features.items() if name != self.key}

    def _put_back(self, part: Batch, others: dict) -> Batch:
        if self.key is None:
            return part
        return part._replace(features={**others, self.key: part.features})

    def _check_company(self, transform: Transform, before: Batch, whole: Batch) -> None:
        """Labels and features that belong to single pixels or tokens do not move along."""
        shape = before.features.shape
        places = shape[:2] if shape.rank == 3 else shape[:1]
        company = [("labels", spec) for spec in tf.nest.flatten(before.labels)]
        for name, value in self._others(whole).items():
            company += [(f"feature {name!r}", spec) for spec in tf.nest.flatten(value)]
        for what, spec in company:
            if spec is not None and spec.shape.rank and spec.shape[: places.rank] == places:
                raise UserError(
                    f"{transform.name} moves what is at each of the places {list(places)} of an "
                    f"example, but the {what} of shape {list(spec.shape)} would stay: leave "
                    "this layer out, or take such entries away with source.map(...)."
                )


def as_augmentation(value: Any) -> Augmentation:
    """An Augmentation, or what one is made of.

    Args:
        value: an Augmentation; a list of layers; or a mapping with "layers" and "key".

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, Augmentation):
        return value
    if isinstance(value, (list, tuple)):
        return Augmentation(value)
    if hasattr(value, "items") and set(dict(value.items())) in ({"layers"}, {"layers", "key"}):
        return Augmentation(value["layers"], key=value.get("key"))
    raise UserError(
        f"augment({value!r}): expected a list of layers, such as "
        '[{"name": "RandomFlip", "mode": "horizontal"}], or a tfbig.data.augmentation.Augmentation.'
    )


def _sorted(positions: Any) -> np.ndarray:
    return np.sort(np.asarray(positions, np.int64))
