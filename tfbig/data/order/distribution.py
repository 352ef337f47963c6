"""Which examples a step trains on, and which of them a worker reads: numbers, no data.

Every order here is a function of (seed, step), computed where it is needed: there is no buffer,
nothing to keep in a checkpoint, and a run may go on at any step.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfbig.data.order.permutation import permuted
from tfbig.errors import UserError

_PERIOD = 1000  # slots after which a mixture has drawn from its sources exactly by their weights


class Batches(NamedTuple):
    """The share of one worker in consecutive global batches.

    Attributes:
        numbers: int64 [n], the examples' numbers in the source, batch after batch.
        positions: int64 [n], the place of each in its global batch.
        counts: int32 [steps], how many of them each batch has.
    """

    numbers: np.ndarray
    positions: np.ndarray
    counts: np.ndarray


class Distribution:
    """An order of examples, and a worker's share of it.

    Args:
        length: examples in the source.
        batch_size: examples in a global batch.
        seed: of the shuffle; None: the source's own order.
        worker, workers: which share, of how many.

    Attributes:
        steps_per_pass: batches in one pass over the data.
        rows: the largest share of this worker in a batch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int | None, worker: int = 0, workers: int = 1
    ):
        if not 0 <= worker < workers:
            raise UserError(f"worker={worker}: expected 0 to {workers - 1}, as workers={workers}.")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.worker, self.workers = worker, workers
        self.steps_per_pass = -(-length // batch_size)
        self.rows = -(-batch_size // workers)

    def batches(self, step: int, steps: int) -> Batches:
        """This worker's examples of the global batches `step` to `step + steps - 1`."""
        passes, batch = np.divmod(np.arange(step, step + steps), self.steps_per_pass)
        return self._share(passes, batch, self.sizes(step, steps))

    def sizes(self, step: int, steps: int) -> np.ndarray:
        """How many examples each of these global batches has, all workers together: [steps]."""
        batch = np.arange(step, step + steps) % self.steps_per_pass
        return np.minimum(self.length - batch * self.batch_size, self.batch_size)

    def share(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where this worker's share begins in batches of these sizes, and how long it is."""
        start, stop = share_of(sizes, self.worker, self.workers)
        return start, stop - start

    def _share(self, passes: np.ndarray, batch: np.ndarray, sizes: np.ndarray) -> Batches:
        """The share of batches that have `sizes` examples; each argument is int64 [steps]."""
        raise NotImplementedError


class RandomDistribution(Distribution):
    """A new permutation of all examples each pass; workers share each global batch.

    The examples of step t depend on (seed, t) alone: any number of workers reads the same.
    """

    def _share(self, passes, batch, sizes):
        start, counts = self.share(sizes)
        positions = _ranges(start, counts)
        places = np.repeat(batch * self.batch_size, counts) + positions
        numbers = permuted(places, self.seed, np.repeat(passes, counts), self.length)
        return Batches(numbers, positions, counts.astype(np.int32))


class BlockDistribution(Distribution):
    """Worker w has the w-th contiguous block of the examples, shuffled inside it each pass.

    A worker so needs only its own files. The blocks are as large as the workers' shares of the
    global batches of a pass, which all have `batch_size` examples but the last.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int | None, worker: int = 0, workers: int = 1
    ):
        super().__init__(length, batch_size, seed, worker, workers)
        whole, rest = divmod(length, batch_size)
        sizes = [
            whole * self._rows_of(w, batch_size) + self._rows_of(w, rest) for w in range(workers)
        ]
        self.block = (sum(sizes[:worker]), sum(sizes[: worker + 1]))

    def _share(self, passes, batch, sizes):
        start, counts = self.share(sizes)
        within = _ranges(np.zeros_like(counts), counts)
        places = np.repeat(batch * self._rows_of(self.worker, self.batch_size), counts) + within
        first, end = self.block
        streams = np.repeat(passes, counts) * self.workers + self.worker
        numbers = first + permuted(places, self.seed, streams, end - first)
        positions = within + np.repeat(start, counts)
        return Batches(numbers, positions, counts.astype(np.int32))

    def share(self, sizes):
        return np.full_like(sizes, self.worker * self.rows), self._rows_of(self.worker, sizes)

    def _rows_of(self, worker: int, size):
        # Full shares first: a smaller batch then takes no more from anyone than a full one does.
        return np.clip(size - worker * self.rows, 0, self.rows)


class TurnsDistribution(Distribution):
    """Whole batches, each of one of several contiguous blocks, which take turns.

    For workers of which each takes a whole batch: step t is batch t div W of block t mod W, in each
    pass anew, and a block is shuffled inside itself. Nobody is bound to a block.

    Args:
        blocks: how many.
        length, batch_size, seed: as for Distribution.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None, *, blocks: int):
        super().__init__(length, batch_size, seed)
        # All of a block's batches are full, but for the last one of the whole pass.
        batches = [-(-(self.steps_per_pass - b) // blocks) for b in range(blocks)]
        sizes = [max(count, 0) * batch_size for count in batches]
        sizes[(self.steps_per_pass - 1) % blocks] -= self.steps_per_pass * batch_size - length
        self._blocks, self._ends = blocks, np.cumsum(sizes)

    def _share(self, passes, batch, sizes):
        within = _ranges(np.zeros_like(sizes), sizes)
        block = np.repeat(batch % self._blocks, sizes)
        places = np.repeat(batch // self._blocks * self.batch_size, sizes) + within
        streams = np.repeat(passes, sizes) * self._blocks + block
        numbers = np.empty_like(places)
        starts = np.concatenate([[0], self._ends])
        for b in np.unique(block):
            mine, length = block == b, int(starts[b + 1] - starts[b])
            numbers[mine] = starts[b] + permuted(places[mine], self.seed, streams[mine], length)
        return Batches(numbers, within, sizes.astype(np.int32))


class MixtureDistribution(Distribution):
    """Draws from several sources by weights; every source goes through its own passes.

    The slots of all batches are cut into periods of 1000, in which each source has its exact
    share in a shuffled order. How often a source was drawn before a period is known, so the
    examples of step t depend on (seed, t) alone; each source is permuted anew when it is through.

    Args:
        lengths: examples of each source; their numbers follow one another.
        weights: of each source, any positive numbers.
        batch_size, seed, worker, workers: as for Distribution.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        worker: int = 0,
        workers: int = 1,
    ):
        super().__init__(int(sum(lengths)), batch_size, seed, worker, workers)
        self._lengths = np.asarray(lengths, np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths)])
        self._slots = slots_of(weights)
        self._ends = np.cumsum(self._slots)

    def batches(self, step, steps):
        batch = np.arange(step, step + steps)
        return self._share(batch, batch, self.sizes(step, steps))

    def sizes(self, step, steps):
        return np.full([steps], self.batch_size)  # none is smaller

    def _share(self, passes, batch, sizes):
        start, counts = self.share(sizes)
        positions = _ranges(start, counts)
        period, slot = np.divmod(np.repeat(batch * self.batch_size, counts) + positions, _PERIOD)
        slot = permuted(slot, self.seed, period, _PERIOD)
        which = np.searchsorted(self._ends, slot, side="right")
        numbers = np.empty_like(slot)
        for s, length in enumerate(self._lengths):
            mine = which == s
            drawn = period[mine] * self._slots[s] + slot[mine] - (self._ends[s] - self._slots[s])
            passes, place = np.divmod(drawn, length)
            streams = passes * len(self._lengths) + s + 1
            numbers[mine] = self._offsets[s] + permuted(place, self.seed, streams, int(length))
        return Batches(numbers, positions, counts.astype(np.int32))


def slots_of(weights: Sequence[float]) -> np.ndarray:
    """How many of 1000 slots each weight gets, int64; what is left goes to the largest rests.

    Raises:
        UserError: a weight is not positive, or so small that it gets no slot.
    """
    given = np.asarray(weights, np.float64)
    if given.ndim != 1 or not len(given) or not (given > 0).all() or not np.isfinite(given).all():
        raise UserError(f"weights={list(weights)!r}: expected one positive number for each source.")
    exact = given / given.sum() * _PERIOD
    slots = exact.astype(np.int64)
    rests = np.argsort(slots - exact, kind="stable")
    slots[rests[: _PERIOD - slots.sum()]] += 1
    if (slots == 0).any():
        small = list(weights)[int(np.flatnonzero(slots == 0)[0])]
        raise UserError(
            f"weights={list(weights)!r}: {small!r} is less than a thousandth of their sum; leave "
            "that source out or give it more."
        )
    return slots


def share_of(sizes: Any, worker: int, workers: int) -> tuple[Any, Any]:
    """(start, stop) of a worker's contiguous share of batches of these sizes."""
    return sizes * worker // workers, sizes * (worker + 1) // workers


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, … for each start, `count` of them, one after the other: int64."""
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
