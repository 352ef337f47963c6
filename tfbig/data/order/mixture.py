"""One source made of several, which are sampled by weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.bad_records import BadRecords
from tfbig.data.order.distribution import allocate_slots
from tfbig.data.source import Source
from tfbig.errors import UserError


class Mixture(NamedTuple):
    """The lengths and the weights of the sources of a mixture."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]


def mix(sources: Sequence[Source], weights: Sequence[float] | None = None) -> Source:
    """Combines several Sources to one, which training samples by weights.

    Each source has its own shuffled passes: a small source with a large weight starts its second
    pass while a large one is still in its first. The examples of a step depend only on (seed,
    step). The number of batches in one pass is that of all examples of all sources. Evaluation
    ignores the weights and reads every example of every source once, in order.

    Example:

        source = tfbig.data.mix([web, books], weights=[0.8, 0.2]).batch(64)

    Args:
        sources: Sources with the same element_spec; their batch sizes are ignored.
        weights: positive numbers, each at least a thousandth of their sum, rounded to a
            thousandth; None: the lengths, so that all examples are equally frequent.

    Raises:
        UserError: the sources' elements differ, or the weights cannot be used.
    """
    return MixtureSource(sources, weights)


class MixtureSource(Source):
    """The result of `mix`; the example numbers of the second source follow those of the first.

    Args:
        sources, weights: as for `mix`.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None):
        self._sources = [sources] if isinstance(sources, Source) else list(sources)
        if not self._sources:
            raise UserError("mix: no sources were given; pass a list such as [first, second].")
        for source in self._sources:
            if not isinstance(source, Source):
                raise UserError(f"mix: expected Sources, received a {type(source).__name__}.")
            if source.mixture is not None or source.augmentation is not None:
                raise UserError(
                    "mix: a source is already a mixture or augmented; mix plain sources, and "
                    "augment the result."
                )
        lengths = tuple(len(source) for source in self._sources)
        try:
            weights = lengths if weights is None else tuple(float(weight) for weight in weights)
        except (TypeError, ValueError):
            raise UserError(
                f"mix(weights={weights!r}): expected one positive number per source, such as "
                "mix([first, second], weights=[0.8, 0.2])."
            ) from None
        if len(weights) != len(lengths):
            raise UserError(
                f"mix: {len(lengths)} sources and {len(weights)} weights; pass one weight per "
                "source."
            )
        first = self._sources[0].element_spec
        for number, source in enumerate(self._sources):
            if source.element_spec != first:
                raise UserError(
                    f"mix: source {number} has elements {source.element_spec}, but source 0 has "
                    f"{first}; map them to the same structure."
                )
        allocate_slots(weights)
        self.mixture = Mixture(lengths, weights)
        self.threads = min(source.threads for source in self._sources)
        if all(source.cleaning is self._sources[0].cleaning for source in self._sources):
            self.cleaning = self._sources[0].cleaning
            self.mapped_after_cleaning = any(s.mapped_after_cleaning for s in self._sources)
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @override
    def read(self, indices: np.ndarray) -> Any:
        which = np.searchsorted(self._ends, indices, side="right")
        parts, places = [], []
        for s in np.unique(which):
            mine = np.flatnonzero(which == s)
            first = self._ends[s] - self.mixture.lengths[s]
            try:
                parts.append(self._sources[s].read(indices[mine] - first))
            except BadRecords as error:
                raise error.at(mine) from None
            places.append(mine)
        back = np.argsort(np.concatenate(places))
        return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays)[back], *parts)
