"""The numbers of the examples that each step uses, and of those that each worker reads.

Every order is a function of (seed, step) that is computed when it is needed. So there is no
buffer and nothing to save in a checkpoint, and a run can resume at any step.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from tfbig.data.order.permutation import permute
from tfbig.errors import UserError

_PERIOD = 1000  # slots in which a mixture draws from each source exactly by its weight


class Batches(NamedTuple):
    """The share of one worker in consecutive global batches.

    Attributes:
        numbers: int64 [n], example numbers in the source, batch after batch.
        positions: int64 [n], the position of each example in its global batch.
        counts: int32 [steps], the number of examples in each batch.
    """

    numbers: np.ndarray
    positions: np.ndarray
    counts: np.ndarray


class Distribution:
    """An order of examples, and a worker's share of it.

    Args:
        length: examples in the source.
        batch_size: examples in a global batch.
        seed: seed of the shuffle; None: the source's own order.
        worker, workers: index of the share, and the number of shares.

    Attributes:
        steps_per_pass: batches in one pass over the data.
        rows: size of this worker's largest share of a batch.
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
        """The sizes of the global batches `step` to `step + steps - 1`: int64 [steps]."""
        batch = np.arange(step, step + steps) % self.steps_per_pass
        return np.minimum(self.length - batch * self.batch_size, self.batch_size)

    def share(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The start of this worker's share in batches of these sizes, and its length."""
        start, stop = worker_share(sizes, self.worker, self.workers)
        return start, stop - start

    def _share(self, passes: np.ndarray, batch: np.ndarray, sizes: np.ndarray) -> Batches:
        """This worker's share of batches with `sizes` examples; each argument is int64 [steps]."""
        raise NotImplementedError


class RandomDistribution(Distribution):
    """A new permutation of all examples in each pass; the workers share each global batch.

    The examples of step t depend only on (seed, t), not on the number of workers.
    """

    def _share(self, passes, batch, sizes):
        start, counts = self.share(sizes)
        positions = _ranges(start, counts)
        in_pass = np.repeat(batch * self.batch_size, counts) + positions
        numbers = permute(in_pass, self.seed, np.repeat(passes, counts), self.length)
        return Batches(numbers, positions, counts.astype(np.int32))


class BlockDistribution(Distribution):
    """Worker w reads the w-th contiguous block of the examples, shuffled within it each pass.

    So a worker needs only its own files. The size of a block is the sum of the worker's shares of
    the global batches of a pass. All these batches except the last have `batch_size` examples.
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
        in_block = np.repeat(batch * self._rows_of(self.worker, self.batch_size), counts) + within
        first, end = self.block
        streams = np.repeat(passes, counts) * self.workers + self.worker
        numbers = first + permute(in_block, self.seed, streams, end - first)
        positions = within + np.repeat(start, counts)
        return Batches(numbers, positions, counts.astype(np.int32))

    @override
    def share(self, sizes):
        return np.full_like(sizes, self.worker * self.rows), self._rows_of(self.worker, sizes)

    def _rows_of(self, worker: int, size):
        # The first shares are full, so a smaller batch never takes more from a worker than a full
        # batch does.
        return np.clip(size - worker * self.rows, 0, self.rows)


class RoundRobinBlockDistribution(Distribution):
    """Whole batches, each from one of several contiguous blocks in round-robin order.

    For workers that each train on whole batches: in each pass, step t is batch t div W of block
    t mod W, and a block is shuffled within itself. Any worker may read any block.

    Args:
        blocks: number of blocks, W.
        length, batch_size, seed: as for Distribution.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None, *, blocks: int):
        super().__init__(length, batch_size, seed)
        # All batches of a block are full, except for the last batch of the pass.
        batches = [-(-(self.steps_per_pass - b) // blocks) for b in range(blocks)]
        sizes = [max(count, 0) * batch_size for count in batches]
        sizes[(self.steps_per_pass - 1) % blocks] -= self.steps_per_pass * batch_size - length
        self._blocks, self._ends = blocks, np.cumsum(sizes)

    def _share(self, passes, batch, sizes):
        within = _ranges(np.zeros_like(sizes), sizes)
        block = np.repeat(batch % self._blocks, sizes)
        in_block = np.repeat(batch // self._blocks * self.batch_size, sizes) + within
        streams = np.repeat(passes, sizes) * self._blocks + block
        numbers = np.empty_like(in_block)
        starts = np.concatenate([[0], self._ends])
        for b in np.unique(block):
            mine, length = block == b, int(starts[b + 1] - starts[b])
            numbers[mine] = starts[b] + permute(in_block[mine], self.seed, streams[mine], length)
        return Batches(numbers, within, sizes.astype(np.int32))


class MixtureDistribution(Distribution):
    """Draws from several sources by weights; every source has its own passes.

    The slots of all batches are divided into periods of 1000. In a period, each source has its
    exact share of the slots, in shuffled order. So the number of earlier draws from a source is
    known at the start of each period, and the examples of step t depend only on (seed, t). Each
    pass of a source has a new permutation.

    Args:
        lengths: number of examples of each source; example numbers continue from one source to
            the next.
        weights: weight of each source, any positive numbers.
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
        self._slots = allocate_slots(weights)
        self._ends = np.cumsum(self._slots)

    @override
    def batches(self, step, steps):
        batch = np.arange(step, step + steps)
        return self._share(batch, batch, self.sizes(step, steps))

    @override
    def sizes(self, step, steps):
        return np.full([steps], self.batch_size)  # the last batch of a pass is full too

    def _share(self, passes, batch, sizes):
        start, counts = self.share(sizes)
        positions = _ranges(start, counts)
        period, slot = np.divmod(np.repeat(batch * self.batch_size, counts) + positions, _PERIOD)
        slot = permute(slot, self.seed, period, _PERIOD)
        which = np.searchsorted(self._ends, slot, side="right")
        numbers = np.empty_like(slot)
        for s, length in enumerate(self._lengths):
            mine = which == s
            drawn = period[mine] * self._slots[s] + slot[mine] - (self._ends[s] - self._slots[s])
            passes, in_pass = np.divmod(drawn, length)
            streams = passes * len(self._lengths) + s + 1
            numbers[mine] = self._offsets[s] + permute(in_pass, self.seed, streams, int(length))
        return Batches(numbers, positions, counts.astype(np.int32))


def allocate_slots(weights: Sequence[float]) -> np.ndarray:
    """Divides 1000 slots among the weights by the largest-remainder method: int64 [n].

    Raises:
        UserError: a weight is not positive, or so small that it gets no slot.
    """
    given = np.asarray(weights, np.float64)
    if given.ndim != 1 or not len(given) or not (given > 0).all() or not np.isfinite(given).all():
        raise UserError(f"weights={list(weights)!r}: expected one positive number per source.")
    exact = given / given.sum() * _PERIOD
    slots = exact.astype(np.int64)
    rests = np.argsort(slots - exact, kind="stable")
    slots[rests[: _PERIOD - slots.sum()]] += 1
    if (slots == 0).any():
        small = list(weights)[int(np.flatnonzero(slots == 0)[0])]
        raise UserError(
            f"weights={list(weights)!r}: {small!r} is less than a thousandth of their sum; remove "
            "that source or increase its weight."
        )
    return slots


def worker_share(sizes: Any, worker: int, workers: int) -> tuple[Any, Any]:
    """The (start, stop) of a worker's contiguous share of batches of these sizes."""
    return sizes * worker // workers, sizes * (worker + 1) // workers


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenates the ranges start, start + 1, … of `count` numbers each: int64."""
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
