"""The Augmentation: a list of transforms, and the examples that each of them needs."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.augmentation import building
from tfbig.data.augmentation.transform import Batch, Draw, Transform, pack, rows_of, unpack
from tfbig.errors import UserError


class Augmentation:
    """Random changes of training examples, by preprocessing layers of Keras or of tfbig.

    The change of the example at a position of a global batch is a function of (seed, step,
    position) and the batch size. So it is the same on any number of workers and after a resume.

    Keras layers draw random numbers for the whole global batch, of which the rows of the wanted
    positions are used. Their arguments and meaning do not change, except that

    - their own `seed` is not used: RunConfig.tf_random_seed is the seed of all layers;
    - RandomCrop, RandAugment, AugMix and RandomElasticTransform choose per image, while Keras
      chooses once per batch; Equalization uses the histogram of each image, while Keras uses that
      of the whole batch;
    - MixUp and CutMix mix sample weights as they mix labels, and the box of CutMix consists of
      whole pixels (Yun et al., 2019: its share of the pixels is the share of the label).

    Evaluation applies only deterministic layers: Rescaling, Normalization, Resizing,
    ZeroPadding2D, CenterCrop, a center crop instead of RandomCrop, AutoContrast, Equalization and
    ContrastLimitedAdaptiveHistogramEqualization. TokenMasking and SpanCorruption define the task
    itself: in evaluation, their random numbers depend only on the tokens.

    Example:

        source = tfbig.data.ImageFolderSource("photos", image_size=32)
        source = source.augment([
            {"name": "RandomFlip", "mode": "horizontal"},
            {"name": "RandomTranslation", "height_factor": 0.1, "width_factor": 0.1},
        ])

    Args:
        layers: a list whose entries are dicts (or ConfigDicts) of a name and arguments, layers of
            Keras, or `TokenMasking`, `SpanCorruption` or other `Transform`s.
        key: name of the feature to augment in a dict of features; None: features are one array.

    Raises:
        UserError: a name or an argument is unknown, or a layer is not supported.
    """

    def __init__(self, layers: Iterable[Any], *, key: str | None = None):
        self.transforms = building.build_transforms(layers)
        self.key = key

    def output_spec(self, element_spec: Any) -> Any:
        """The spec of one example after augmentation.

        Args:
            element_spec: spec of an example of the source: a nested structure of tf.TensorSpec.

        Raises:
            UserError: the layers cannot be applied to such examples.
        """
        whole = unpack(element_spec)
        spec = self._chosen(whole)
        for transform in self.transforms:
            before, spec = spec, transform.output_spec(spec)
            if transform.moves:
                self._check_aligned(transform, before, whole)
        return pack(self._put_back(spec, self._others(whole)))

    def needed(self, *, seed: int, step: int, positions: np.ndarray, batch_size: int) -> np.ndarray:
        """The positions whose examples must be read so that `positions` can be augmented.

        Returns:
            Sorted int64 array: `positions` and the partners for MixUp and CutMix.
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
            seed: seed of the run.
            step: step of the global batch.
            positions: sorted int64 [n]: positions in the global batch.
            batch_size: examples in a full global batch.
            wanted: the positions to return, a subset of `positions`; None: all of them.

        Returns:
            The examples at `wanted`: NumPy arrays or tensors on the CPU. An example without its
            mixing partner is mixed with itself.

        Raises:
            UserError: the layers cannot be applied to such examples.
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
        """Applies the deterministic layers; the structure is the same as in training."""
        whole = unpack(batch)
        part = self._chosen(whole)
        for transform in self.transforms:
            part = transform.evaluate(part)
        return pack(self._put_back(part, self._others(whole)))

    def _stages(
        self, seed: int, step: int, wanted: np.ndarray, batch_size: int
    ) -> list[np.ndarray]:
        """The positions that must exist before each transform, and after the last one."""
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
                    f"augmentation: the features have several entries ({names}); name one with "
                    'tfbig.data.augmentation.Augmentation(layers, key="image").'
                )
            return whole
        if not isinstance(features, dict) or self.key not in features:
            names = ", ".join(map(repr, features)) if isinstance(features, dict) else "not a dict"
            raise UserError(
                f"augmentation: key={self.key!r} is not an entry of the features ({names}); "
                "omit key if the features are one array."
            )
        return whole._replace(features=features[self.key])

    def _others(self, whole: Batch) -> dict:
        """The entries of a dict of features that are not augmented."""
        if self.key is None:
            return {}
        return {name: value for name, value in whole.features.items() if name != self.key}

    def _put_back(self, part: Batch, others: dict) -> Batch:
        if self.key is None:
            return part
        return part._replace(features={**others, self.key: part.features})

    def _check_aligned(self, transform: Transform, before: Batch, whole: Batch) -> None:
        """Raises a UserError if other entries belong to the pixels or tokens that it moves."""
        shape = before.features.shape
        grid = shape[:2] if shape.rank == 3 else shape[:1]
        aligned = [("labels", spec) for spec in tf.nest.flatten(before.labels)]
        for name, value in self._others(whole).items():
            aligned += [(f"feature {name!r}", spec) for spec in tf.nest.flatten(value)]
        for what, spec in aligned:
            if spec is not None and spec.shape.rank and spec.shape[: grid.rank] == grid:
                raise UserError(
                    f"{transform.name} moves the values on the grid {list(grid)} of an example, "
                    f"but would not move the {what} of shape {list(spec.shape)}: remove this "
                    "layer, or remove such entries with source.map(...)."
                )


def as_augmentation(value: Any) -> Augmentation:
    """Converts a value to an Augmentation.

    Args:
        value: an Augmentation; a list of layers; or a mapping with "layers" and "key".

    Raises:
        UserError: the value is something else.
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
