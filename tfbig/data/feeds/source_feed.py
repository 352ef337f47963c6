"""Stacks of batches from a Source, in an order that is a function of (seed, step)."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.bad_records import Quarantine, concatenate_batches, read_good
from tfbig.data.feeds.feed import Feed, Stack, capacity_for, rows_for, tail_size_for
from tfbig.data.order.distribution import (
    Batches,
    BlockDistribution,
    Distribution,
    MixtureDistribution,
    RandomDistribution,
    RoundRobinBlockDistribution,
)
from tfbig.data.source import Source
from tfbig.errors import UserError

log = logging.getLogger("tfbig")

_CHUNK = 64  # minimum number of examples per thread
_TRIES = 100  # steps with only bad records before the run fails


class SourceFeed(Feed):
    """Reads a Source batch by batch; the position is the step, so resuming is O(1).

    Args:
        source: a batched Source.
        seed: seed of the shuffle and the augmentation.
        multiple: number of equal parts into which the worker's share of a batch is divided.
        steps_per_loop: RunConfig.steps_per_loop.
        order: "random", "block", or "own": the source's own order.
        training: whether to augment the examples at random; if not, only the deterministic
            layers of the augmentation are applied.
        worker, workers: index of the share of every global batch that is read, and the number of
            shares.
        blocks: as for make_distribution.
    """

    repeats = True
    remedy = (
        "make read() and the functions of map() cheaper, set source.threads if several threads "
        "may call read() at once, or save preprocessed examples for a tfbig.data.NpySource"
    )

    def __init__(
        self,
        source: Source,
        *,
        seed: int | None,
        multiple: int,
        steps_per_loop: int | str,
        order: str = "random",
        training: bool = True,
        worker: int = 0,
        workers: int = 1,
        blocks: int = 1,
    ):
        if source.batch_size is None:
            raise UserError(
                f"the {type(source).__name__} has no batch size; write "
                "return source.batch(64), where 64 is the global batch size."
            )
        self._source, self._seed, self._training = source, seed, training
        self._structure = source.element_spec
        self._shares = [
            make_distribution(source, order, seed, w, workers, blocks) for w in range(workers)
        ]
        self._distribution = self._shares[worker]
        self._augmentation = source.augmentation
        spec = self._structure
        if self._augmentation is not None:
            spec = self._augmentation.output_spec(spec)
        self.element_spec = tf.nest.map_structure(
            lambda s: tf.TensorSpec([None, *s.shape], s.dtype), spec
        )
        self.batch_size, self.worker, self.workers = source.batch_size, worker, workers
        self.rows = rows_for(self._distribution.rows, multiple)
        self.full = self.rows * workers == self.batch_size
        self.capacity = capacity_for(self.element_spec, self.rows, steps_per_loop)
        self.steps_per_pass = self._distribution.steps_per_pass
        last = int(self._distribution.sizes(self.steps_per_pass - 1, 1)[0])
        self.tail_size = tail_size_for(last, self.batch_size, self.steps_per_pass)
        self._quarantines: set[Quarantine] = set()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tfbig-read")
        self._helpers = None
        if source.threads > 1:
            self._helpers = ThreadPoolExecutor(source.threads, thread_name_prefix="tfbig-read-part")
        self._ahead: tuple[int, int, Future] | None = None

    @override
    def pull(self, step: int, steps: int, read_ahead: int = 0) -> Stack:
        ahead, self._ahead = self._ahead, None
        if ahead and ahead[0] == step and ahead[1] >= steps:
            future = ahead[2]
        else:
            future = self._reader.submit(self._read, step, steps)  # only this thread reads
        stack = future.result()._replace(steps=steps)
        if read_ahead:
            first = step + steps
            self._ahead = (first, read_ahead, self._reader.submit(self._read, first, read_ahead))
        return stack

    @override
    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
        if self._helpers is not None:
            self._helpers.shutdown(wait=True)
        for quarantine in self._quarantines:
            log.warning("skipped bad records: %d; see %s", quarantine.count, quarantine.path)
        self._quarantines.clear()  # so that a second close does not log them again

    def batch_numbers(self, step: int) -> np.ndarray:
        """The example numbers of the global batch of a step: int64 [n]."""
        return self._distribution.batches(step, 1).numbers

    def _read(self, step: int, steps: int) -> Stack:
        batch, counts = self._examples(step, steps)
        sizes, offsets, planned, filler = counts, np.zeros_like(counts), counts, None
        if self.workers > 1:
            sizes = self._distribution.sizes(step, steps)
            offsets, planned = self._distribution.share(sizes)
            filler = None if counts.all() else self._filler(step + int(np.argmin(counts)))
        elif self._training and not counts.all():
            found = [self._some_examples(step + i) for i in range(steps)]
            batch = concatenate_batches([examples for examples, _ in found])
            sizes = planned = counts = np.concatenate([count for _, count in found])
        with tf.device("CPU:0"):  # in the reading thread, so that the loop need not copy
            stacked = tf.nest.map_structure(lambda a: self._stacked(np.asarray(a), counts), batch)
            if filler is not None:
                for whole, row in zip(
                    tf.nest.flatten(stacked), tf.nest.flatten(filler), strict=True
                ):
                    whole[: len(counts)][counts == 0, 0] = row[0]
            values = tf.nest.map_structure(tf.convert_to_tensor, stacked)
        counts, sizes, offsets, missing = (
            _padded(numbers.astype(np.int32), self.capacity)
            for numbers in (counts, sizes, offsets, planned - counts)
        )
        return Stack(values, counts, steps, sizes, offsets, missing)

    def _filler(self, step: int) -> Any:
        """One example for a worker whose share of a global batch is empty; None: all are bad.

        Zeros are no substitute: a layer may return NaN for them, and 0 times NaN is NaN.
        """
        for share in self._shares:
            numbers = share.batches(step, 1).numbers
            batch, kept = self._gather(numbers[:1], step)
            if kept.any():
                return self._augmentation.evaluate(batch) if self._augmentation else batch
        return None

    def _some_examples(self, step: int) -> tuple[Any, np.ndarray]:
        """The examples of a step; if all are bad, those of the next step with a good one."""
        for later in range(step, step + _TRIES):
            batch, counts = self._examples(later, 1)
            if counts[0]:
                return batch, counts
        raise UserError(
            f"all examples of the {_TRIES} steps from step {step} on are bad records, so there is "
            "nothing to train on; repair the data, or select the good examples with "
            "tfbig.data.find_bad_records(source)."
        )

    def _examples(self, step: int, steps: int) -> tuple[Any, np.ndarray]:
        """The concatenated examples of these steps, and the size of each step."""
        batches = self._distribution.batches(step, steps)
        if self._augmentation is not None and self._training:
            batch, counts = self._augmented(batches, step)
        else:
            batch, kept = self._gather(batches.numbers, step)
            counts = batches.counts if kept.all() else _counts_of(batches.counts, kept)
            if self._augmentation is not None:
                batch = self._augmentation.evaluate(batch)
        return batch, counts

    def _gather(self, numbers: np.ndarray, step: int) -> tuple[Any, np.ndarray]:
        """Reads examples, in several threads if the source allows it."""

        def read(part):
            batch, kept = read_good(self._source, part, self._quarantines)
            if batch is not None:
                self._check(batch, int(kept.sum()), step)
            return batch, kept

        threads = min(self._source.threads, len(numbers) // _CHUNK)
        if threads > 1:
            parts = list(self._helpers.map(read, np.array_split(numbers, threads)))
        else:
            parts = [read(numbers)]
        found = [batch for batch, _ in parts if batch is not None]
        if not found:
            found = [_no_examples(self._structure)]
        return concatenate_batches(found), np.concatenate([kept for _, kept in parts])

    def _augmented(self, batches: Batches, step: int) -> tuple[Any, np.ndarray]:
        """Reads batches with their mixing partners, and augments each batch by its own step."""
        wanted = np.split(batches.positions, np.cumsum(batches.counts)[:-1])
        keys = [
            dict(seed=self._seed, step=step + i, batch_size=self._source.batch_size)
            for i in range(len(wanted))
        ]
        needed = [
            self._numbers_at(self._augmentation.needed(positions=own, **key), key["step"])
            for own, key in zip(wanted, keys, strict=True)
        ]
        positions, numbers = zip(*needed, strict=True)
        batch, kept = self._gather(np.concatenate(numbers), step)
        counts, done, start = [], [], 0
        for own, read, key, mask in zip(
            wanted, positions, keys, np.split(kept, np.cumsum([len(n) for n in numbers])[:-1]),
            strict=True,
        ):  # fmt: skip
            read = read[mask]
            own = own[np.isin(own, read)]
            rows = slice(start, start + len(read))
            start += len(read)
            counts.append(len(own))
            if len(own):
                part = tf.nest.map_structure(lambda a, rows=rows: a[rows], batch)
                done.append(self._augmentation.train(part, positions=read, wanted=own, **key))
        if not done:
            done = [_no_examples(self._augmentation.output_spec(self._structure))]
        return concatenate_batches(done), np.array(counts, np.int32)

    def _numbers_at(self, positions: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The positions of a global batch that exist, on any worker, and their example numbers.

        In the last, smaller batch of a pass, the position of a mixing partner may not exist.
        """
        shares = [share.batches(step, 1) for share in self._shares]
        existing = np.concatenate([share.positions for share in shares])
        numbers = np.concatenate([share.numbers for share in shares])
        order = np.argsort(existing)
        positions = positions[np.isin(positions, existing)]
        return positions, numbers[order][np.searchsorted(existing[order], positions)]

    def _stacked(self, array: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Reshapes [sum of counts, …] to [capacity, rows, …], padded with zeros."""
        shape = [self.capacity, self.rows, *array.shape[1:]]
        if len(array) == self.capacity * self.rows:  # full, so no copy is needed
            return array.reshape(shape)
        stack = np.zeros(shape, array.dtype)
        if array.dtype == object:  # strings
            stack.fill("")
        start = 0
        for run in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(counts)) + 1):
            n = int(counts[run].sum())
            rows = int(counts[run[0]])
            piece = array[start : start + n].reshape(len(run), rows, *array.shape[1:])
            stack[run[0] : run[-1] + 1, :rows] = piece
            start += n
        return stack

    def _check(self, batch: Any, count: int, step: int) -> None:
        """Checks that a batch has the structure, shapes and dtypes of the first, and its size."""
        try:
            tf.nest.assert_same_structure(batch, self._structure)
        except (ValueError, TypeError):
            raise UserError(
                f"the data changed their structure between batches: at step {step} read() returned "
                f"{_shown(batch)}, but the first read returned {_shown(self._structure)}."
            ) from None
        for array, spec in zip(
            tf.nest.flatten(batch), tf.nest.flatten(self._structure), strict=True
        ):
            shape, dtype = np.shape(array), tf.as_dtype(np.asarray(array).dtype)
            if shape[1:] != tuple(spec.shape) or dtype != spec.dtype or shape[0] != count:
                raise UserError(
                    f"the data changed their structure between batches: at step {step} read() "
                    f"returned {dtype.name} of shape {shape} for {count} examples, but an example "
                    f"is {spec.dtype.name} of shape {tuple(spec.shape)}."
                )


def make_distribution(
    source: Source,
    order: str,
    seed: int | None,
    worker: int = 0,
    workers: int = 1,
    blocks: int = 1,
) -> Distribution:
    """Returns the order in which a source is read, and a worker's share of it.

    Args:
        source: a batched Source.
        order: "random", "block" or "own".
        seed: seed of the shuffle.
        worker, workers: index of the share, and the number of shares.
        blocks: number of blocks that take turns, for order "block" with one share.

    Raises:
        UserError: the source is a mixture and the order "block".
    """
    share = dict(batch_size=source.batch_size, worker=worker, workers=workers)
    if order == "own":
        return RandomDistribution(len(source), seed=None, **share)
    if source.mixture is not None:
        if order == "block":
            raise UserError(
                'data_distribution="block": a mixture draws from its sources at random and has no '
                'blocks; use data_distribution="random".'
            )
        lengths, weights = source.mixture
        return MixtureDistribution(lengths, weights, seed=seed, **share)
    if order == "block" and blocks > 1:
        return RoundRobinBlockDistribution(len(source), source.batch_size, seed, blocks=blocks)
    kind = BlockDistribution if order == "block" else RandomDistribution
    return kind(len(source), seed=seed, **share)


def _no_examples(spec: Any) -> Any:
    return tf.nest.map_structure(lambda s: np.zeros([0, *s.shape], s.dtype.as_numpy_dtype), spec)


def _counts_of(counts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The number of kept examples in each batch."""
    batch = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(batch[kept], minlength=len(counts)).astype(np.int32)


def _padded(counts: np.ndarray, capacity: int) -> np.ndarray:
    return np.concatenate([counts, np.zeros(capacity - len(counts), np.int32)])


def _shown(structure: Any) -> str:
    def leaf(value):
        if not hasattr(value, "dtype"):
            return type(value).__name__
        return f"{value.dtype.name}{list(value.shape)}"

    return str(tf.nest.map_structure(leaf, structure)).replace("'", "")
