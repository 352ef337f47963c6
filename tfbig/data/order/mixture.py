"""Several sources as one, drawn from by weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.data.bad_records import BadRecords
from tfbig.data.order.distribution import slots_of
from tfbig.data.source import Source
from tfbig.errors import UserError


class Mixture(NamedTuple):
    """How the examples of a mixture are drawn: each source's length and its weight."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]


def mix(sources: Sequence[Source], weights: Sequence[float] | None = None) -> Source:
    """Makes one Source of several, which are drawn from by weights in training.

    Each source is shuffled and gone through by itself: a small one with a large weight starts
    anew while a large one is still in its first pass. Which examples a step has depends on
    (seed, step) alone. One pass has as many batches as the examples of all sources fill.
    Evaluation reads every example of every source once, in order, whatever the weights.

    Example:

        source = tfbig.data.mix([web, books], weights=[0.8, 0.2]).batch(64)

    Args:
        sources: with the same element_spec; their batch sizes do not matter.
        weights: positive numbers, at least a thousandth of their sum each, taken to a
            thousandth; None: the lengths, so that all examples are drawn equally often.

    Raises:
        UserError: the sources' elements differ, or the weights cannot be used.
    """
    return MixtureSource(sources, weights)


class MixtureSource(Source):
    """What `mix` returns; the numbers of the second source follow those of the first.

    Args:
        sources, weights: as for `mix`.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None):
        self._sources = [sources] if isinstance(sources, Source) else list(sources)
        if not self._sources:
            raise UserError("mix: no sources were given; write mix([first, second]).")
        for source in self._sources:
            if not isinstance(source, Source):
                raise UserError(f"mix: expected Sources, received a {type(source).__name__}.")
            if source.mixture is not None or source.augmentation is not None:
                raise UserError(
                    "mix: a source is a mixture or augmented already; mix plain sources, and "
                    "augment what comes out."
                )
        lengths = tuple(len(source) for source in self._sources)
        try:
            weights = lengths if weights is None else tuple(float(weight) for weight in weights)
        except (TypeError, ValueError):
            raise UserError(
                f"mix(weights={weights!r}): expected one positive number for each source; write "
                "mix([first, second], weights=[0.8, 0.2])."
            ) from None
        if len(weights) != len(lengths):
            raise UserError(
                f"mix: {len(lengths)} sources and {len(weights)} weights; give one for each."
            )
        first = self._sources[0].element_spec
        for number, source in enumerate(self._sources):
            if source.element_spec != first:
                raise UserError(
                    f"mix: source {number} has elements {source.element_spec}, but source 0 has "
                    f"{first}; map them to the same."
                )
        slots_of(weights)
        self.mixture = Mixture(lengths, weights)
        self.threads = min(source.threads for source in self._sources)
        if all(source.cleaning is self._sources[0].cleaning for source in self._sources):
            self.cleaning = self._sources[0].cleaning
            self.mapped_after_cleaning = any(s.mapped_after_cleaning for s in self._sources)
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

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
