"""Stacks of batches from a user's tf.data.Dataset, in its own order."""

import collections
import itertools
import logging
import os
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.data.feeds.feed import Feed, Stack, capacity_for, rows_for, tail_size_for
from tfbig.data.order.distribution import worker_share
from tfbig.errors import UserError
from tfbig.layers.sparse_rows import rows_dataset

log = logging.getLogger("tfbig")


class DatasetFeed(Feed):
    """Reads a batched Dataset; the position is the checkpoint of its iterator.

    A traced loop over the iterator builds a stack from exactly the number of batches that were
    requested, so the iterator's position is always that of training. If the iterator cannot be
    serialized (for example because of a Python generator), a resumed run reads the Dataset from
    its start and skips the batches that were used before.

    Args:
        dataset: a Dataset with the global batch size.
        multiple: number of equal parts into which the worker's share of a batch is divided.
        steps_per_loop: RunConfig.steps_per_loop.
        worker, workers: index of the share of every global batch that is kept, and the number of
            shares. Each worker reads whole batches.
        sparse: whether the model takes SparseTensors, which the elements then have as SparseRows.
    """

    remedy = (
        "pass num_parallel_calls=tf.data.AUTOTUNE to the Dataset's map(), cache() what does not "
        "change, or return a tfbig.data.Source"
    )

    def __init__(
        self,
        dataset: tf.data.Dataset,
        *,
        multiple: int,
        steps_per_loop: int | str,
        worker: int = 0,
        workers: int = 1,
        sparse: bool = False,
    ):
        self.worker, self.workers = worker, workers
        if sparse:
            dataset = rows_dataset(dataset)
        self.element_spec = _checked_spec(dataset)
        leaves = tf.nest.flatten(self.element_spec)
        self.static = all(s.shape[1:].is_fully_defined() for s in leaves)
        cardinality = int(dataset.cardinality())
        self.infinite = cardinality == tf.data.INFINITE_CARDINALITY
        self.steps_per_pass = cardinality if cardinality > 0 else None
        if cardinality == 0:
            raise _empty()
        self._dataset = without_tuning_thread(dataset.prefetch(tf.data.AUTOTUNE))
        self._passes, self._in_pass, self._resumed = 0, 0, False
        self._start_pass()
        self.keepable = self._find_out_if_keepable()
        self.batch_size = leaves[0].shape[0] or self._first_size()
        # Whether the iterator's position is that of training. It is not while the first batch is
        # pending, or while a checkpoint without an iterator is being restored.
        self._kept = self.keepable and self._pending is None
        self.rows = rows_for(-(-self.batch_size // workers), multiple)
        self.full = self.rows * workers == self.batch_size
        if self.static:
            self.capacity = capacity_for(self.element_spec, self.rows, steps_per_loop)
        else:
            self.capacity = 1
        if self._pending is not None and self.static:
            self._pending = self._padded(self._pending)
        self._pull_traced: dict[bool, Any] = {}

    @override
    def pull(self, step: int, steps: int, read_ahead: int = 0) -> Stack:
        del step, read_ahead  # the Dataset prefetches by itself
        try:
            stack = self._pull_stack(steps) if self.static else self._pull_one()
        except tf.errors.OpError as error:
            raise _explained(error) from error
        self._in_pass += stack.steps
        if self.tail_size is None and stack.steps:
            last = int(stack.sizes[stack.steps - 1])
            self.tail_size = tail_size_for(last, self.batch_size, self._in_pass)
        self._kept = self.keepable
        return stack

    @override
    def next_pass(self) -> None:
        if self._in_pass == 0:
            raise _empty()
        if self._resumed:
            self._reshuffle_as_after(self._begun)
            self._resumed = False
        self._start_pass()
        self._passes, self._in_pass = self._passes + 1, 0

    @override
    def trackables(self) -> dict:
        return {"iterator": self._iterator} if self._kept else {}

    @override
    def position(self) -> dict:
        return {
            "passes": self._passes,
            "in_pass": self._in_pass,
            "kept": self._kept,
            "batch_size": self.batch_size,
            "odd": self.tail_size,
        }

    @override
    def restart(self, reason: str) -> None:
        log.warning(
            "input_fn does not return the Dataset that the checkpoint was written with (%s); it is "
            "read from the start",
            reason,
        )
        self._start_pass()
        self._passes, self._in_pass, self._kept = 0, 0, self.keepable
        self.tail_size = None

    @override
    def restore_position(self, position: dict) -> None:
        before = position.get("batch_size", "unknown: it was a Source")
        if before != self.batch_size:
            self.restart(f"the batch size is {self.batch_size}, it was {before}")
            self._kept = False
            return
        passes, in_pass = position["passes"], position["in_pass"]
        self.tail_size = position.get("odd")
        self._kept = position["kept"] and self.keepable
        if self._passes or self._in_pass:  # a damaged checkpoint was tried before
            self._start_pass()
        if self._kept:
            self._reshuffle_as_after(self._begun)
        if not self._kept and (passes or in_pass):
            log.info(
                "resuming: the Dataset is read from the start, and %d whole passes and %d batches "
                "are skipped, because the checkpoint has no position of its iterator",
                passes,
                in_pass,
            )
        for _ in range(passes):
            if not self._kept:  # reading a pass to its end reshuffles the next one as before
                collections.deque(self._iterator, maxlen=0)
            self._start_pass()
        if self._kept:
            self._pending = None
            if passes:
                self._begun = _private_api.serialize_iterator(self._iterator)
            self._resumed = True
        else:
            skip = in_pass
            if skip and self._pending is not None:
                self._pending, skip = None, skip - 1
            collections.deque(itertools.islice(self._iterator, skip), maxlen=0)
        self._passes, self._in_pass = passes, in_pass

    def _start_pass(self) -> None:
        self._iterator: Any = iter(self._dataset)
        self._pending = None

    def _reshuffle_as_after(self, begun: tf.Tensor) -> None:
        """Shuffles the next pass like the pass after the one whose iterator had this first state.

        A shuffle draws new seeds for each iterator, and restoring an iterator sets the number of
        seeds drawn. But the checkpoint does not show whether prefetching had reached the end.
        """
        _private_api.deserialize_iterator(iter(self._dataset), begun)

    def _find_out_if_keepable(self) -> bool:
        """Whether TensorFlow can serialize the iterator; if not, logs the stateful operation."""
        try:
            self._begun = _private_api.serialize_iterator(self._iterator)
            return True
        except tf.errors.OpError as error:
            found = re.search(r"(\w+) is stateful", error.message)
            log.info(
                "the Dataset's position cannot be saved in checkpoints (%s); a resumed run reads "
                "it from the start and skips the batches that were used",
                f"{found[1]} is stateful" if found else _reason(error.message),
            )
            return False

    def _first_size(self) -> int:
        """The size of the first batch, which is then the first one of the first stack."""
        try:
            self._pending = next(self._iterator, None)
        except tf.errors.OpError as error:
            raise _explained(error) from error
        if self._pending is None:
            raise _empty()
        return int(tf.shape(tf.nest.flatten(self._pending)[0])[0])

    def _padded(self, element: Any) -> Any:
        """This worker's rows of a global batch, padded with zeros, and the size of the batch."""
        flat = tf.nest.flatten(element)
        count = tf.shape(flat[0])[0]
        first, kept = self._rows_of(count)

        def pad(tensor):
            ends = [[0, self.rows - kept], *[[0, 0]] * (tensor.shape.rank - 1)]
            if self.workers > 1:
                # Keeps this share's rows. If the component has another number of rows than the
                # first one, the padded size is wrong, and ensure_shape fails below.
                ends = [[0, self.rows - kept - count + tf.shape(tensor)[0]], *ends[1:]]
                tensor = tensor[first : first + kept]
            # Fails for a component with another number of rows than the first.
            return tf.ensure_shape(tf.pad(tensor, ends), [self.rows, *tensor.shape[1:]])

        fits = tf.debugging.Assert(
            count <= self.batch_size, ["batch grew", count, "first", self.batch_size]
        )
        with tf.control_dependencies([] if fits is None else [fits]):  # None: not in a graph
            return [pad(t) for t in flat], count

    def _rows_of(self, size: Any) -> tuple[Any, Any]:
        """The first row of the worker's share of a batch, and the number of rows to keep.

        A share without examples keeps one row of another share, which has no effect.
        """
        start, stop = worker_share(size, self.worker, self.workers)
        return tf.minimum(start, size - 1), tf.maximum(stop - start, 1)

    def _stack(self, values: Any, sizes: np.ndarray, steps: int) -> Stack:
        start, stop = worker_share(sizes, self.worker, self.workers)
        return Stack(values, stop - start, steps, sizes, start, np.zeros_like(sizes))

    def _pull(self, iterator, steps, first, to_a_smaller):
        specs = tf.nest.flatten(self.element_spec)
        arrays = [
            tf.TensorArray(s.dtype, self.capacity, element_shape=[self.rows, *s.shape[1:]])
            for s in specs
        ]
        counts = tf.TensorArray(tf.int32, self.capacity, element_shape=[])
        start = tf.constant(0)
        if first is not None:
            arrays = [a.write(0, t) for a, t in zip(arrays, first[0], strict=True)]
            counts, start = counts.write(0, first[1]), tf.constant(1)

        def body(i, more, counts, *arrays):
            del more
            optional = iterator.get_next_as_optional()

            def write():
                flat, count = self._padded(optional.get_value())
                written = [a.write(i, t) for a, t in zip(arrays, flat, strict=True)]
                more = ~to_a_smaller | (count == self.batch_size)
                return i + 1, more, counts.write(i, count), *written

            return tf.cond(optional.has_value(), write, lambda: (i, False, counts, *arrays))

        done, _, counts, *arrays = tf.while_loop(
            lambda i, more, *_: (i < steps) & more, body, (start, True, counts, *arrays)
        )
        values = tf.nest.pack_sequence_as(self.element_spec, [a.stack() for a in arrays])
        return values, counts.stack(), done

    def _pull_stack(self, steps: int) -> Stack:
        first, self._pending = self._pending, None
        # The first smaller batch ends its stack, so that `tail_size` is known for the next stack,
        # whatever number of batches is requested.
        arguments = (self._iterator, tf.constant(steps), first, tf.constant(self.tail_size is None))
        pull = self._pull_traced.get(first is None)
        if pull is None:  # a concrete function, because TensorFlow warns of retracing across feeds
            function = tf.function(self._pull, autograph=False)
            pull = self._pull_traced[first is None] = function.get_concrete_function(*arguments)
        values, counts, done = pull(*arguments)
        return self._stack(values, counts.numpy(), int(done))

    def _pull_one(self) -> Stack:
        element, self._pending = self._pending, None
        if element is None:
            element = next(self._iterator, None)
        if element is None:
            return self._stack(None, np.zeros([1], np.int32), 0)
        count, *others = {int(tf.shape(t)[0]) for t in tf.nest.flatten(element)}
        if others:
            raise _different_rows()
        first, kept = self._rows_of(count)
        values = tf.nest.map_structure(lambda t: t[None, first : first + kept], element)
        return self._stack(values, np.array([count], np.int32), 1)


def _checked_spec(dataset: tf.data.Dataset) -> Any:
    spec = dataset.element_spec
    for path, leaf in keras.tree.flatten_with_path(spec):
        name = " " + "/".join(map(str, path)) if path else ""
        if not isinstance(leaf, tf.TensorSpec):
            raise UserError(
                f"the Dataset's component{name} is a {type(leaf).__name__}, which cannot be "
                "stacked; make it dense, for example with .map(lambda x: x.to_tensor())."
            )
        if leaf.shape.rank is None or leaf.shape.rank == 0:
            shown = "unknown rank" if leaf.shape.rank is None else "no batch dimension"
            raise UserError(
                f"the Dataset's component{name} has {shown}; use dataset.batch(64), where 64 "
                "is the global batch size."
            )
    if len({leaf.shape[0] for leaf in tf.nest.flatten(spec)} - {None}) > 1:
        raise _different_rows()
    return spec


def _empty() -> UserError:
    return UserError(
        "the Dataset is empty: it has no batch. Check its files and its filter, and whether "
        "batch(…, drop_remainder=True) drops the only batch."
    )


def _different_rows() -> UserError:
    return UserError(
        "the components of a batch have different numbers of rows; features, labels and "
        "sample_weight need the same first dimension."
    )


def _explained(error: tf.errors.OpError) -> UserError:
    grew = re.search(r"\[batch grew\] \[(\d+)\] \[first\] \[(\d+)\]", error.message)
    if grew:
        return UserError(
            f"a batch is larger than the first one ({grew[1]} examples after {grew[2]}); batches "
            "may be smaller, not larger: use one global batch size for the whole Dataset."
        )
    said = re.search(r"with_class_weight: [^.;]*[.;][^.;]*\.?", error.message)
    if said:
        return UserError(said[0])
    if "EnsureShape" in error.message:
        return _different_rows()
    changed = isinstance(error, tf.errors.InvalidArgumentError)
    advice = "; does the structure or the shape of the features change between batches?"
    return UserError(
        f"the Dataset failed while a batch was read{advice if changed else '.'} TensorFlow says: "
        f"{_reason(error.message)}"
    )


def _reason(message: str) -> str:
    """The line of a TensorFlow error with the cause, without names of graph nodes."""
    about_the_graph = ("Graph execution error", "Detected at node", "<stack traces", "  File ")
    said = [x for x in message.splitlines() if x.strip() and not x.startswith(about_the_graph)]
    return re.sub(r"\{\{.*?\}\} ?", "", " ".join(said[:1]))[:300]


def without_tuning_thread(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Sets AUTOTUNE to the number of cores, unless the Dataset's own options turn tuning on or off.

    With tuning, each iterator has a thread, and whoever destroys the iterator waits for it.
    TensorFlow 2.21 wakes that thread before it sets the flag that the thread reads. On busy cores
    the thread often goes back to sleep, for as long as the iterator has lived, up to a minute.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    options.autotune.initial_parallelism = os.cpu_count() or 1
    return dataset.with_options(options)
