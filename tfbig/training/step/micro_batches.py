"""The sums over the micro-batches of one replica, one micro-batch after the other."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.data.feeds.feed import Share
from tfbig.layers import indexed_slices
from tfbig.placement.sums import Sums, flat_sums
from tfbig.programs.program import Values
from tfbig.training.step.state_kinds import StateKinds


class MicroBatches:
    """Adds up what the micro-batches of a replica's part of a batch yield.

    Args:
        count: RunConfig.accumulation_steps.
        part_sums: the sums of one part: (values, element, share, part, scale, number) → Sums.
        unflatten: the inverse of `flat_sums`.
        kinds: of the program's state.
        unrolled: whether the micro-batches are traced one by one; else they are a loop.
    """

    def __init__(
        self,
        count: int,
        part_sums: Callable,
        unflatten: Callable[[list], Sums],
        kinds: StateKinds,
        *,
        unrolled: bool,
    ):
        self._count, self._part_sums, self._unflatten = count, part_sums, unflatten
        self._kinds, self._unrolled = kinds, unrolled

    def sums(self, values: Values, element: Any, share: Share, replica, scale, number) -> Sums:
        """The sums over the micro-batches of one replica; arguments as for `Step.replica_sums`."""
        arguments = values, element, share, replica * self._count, scale, number
        total, held = (self._one_by_one if self._unrolled else self._in_a_loop)(*arguments)
        sums = self._unflatten(total)
        other = [
            old + (new - old * self._count) // self._count  # all are equal
            for new, old in zip(sums.other, self._kinds.others(values.state), strict=True)
        ]
        return sums._replace(other=other, held=held)

    def _in_a_loop(self, values, element, share, first, scale, number) -> tuple[list, list]:
        specs, held_specs = self._probe(values, element, share, scale, number)
        sliced = any(isinstance(s, indexed_slices.SlicesSpec) for s in specs)

        def put_together(carried):
            return [indexed_slices.put_together(*pair) for pair in zip(specs, carried, strict=True)]

        def body(a, held, *carried):
            sums = self._part_sums(values, element, share, first + a, scale, number)
            pairs = zip(put_together(carried), flat_sums(sums), strict=True)
            held = [tf.concat(pair, 0) for pair in zip(held, sums.held, strict=True)]
            return (
                a + 1,
                held,
                *(indexed_slices.tensors_of(indexed_slices.added(x, y)) for x, y in pairs),
            )

        none_held = [tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in held_specs]
        # IndexedSlices and what is held are concatenated, so their first dimension grows.
        held_shapes = [tf.TensorShape([None, *spec.shape[1:]]) for spec in held_specs]
        _, held, *carried = tf.while_loop(
            lambda a, *_: a < self._count,
            body,
            (tf.constant(0), none_held, *map(indexed_slices.zeros, specs)),
            shape_invariants=(
                tf.TensorShape([]),
                held_shapes,
                *map(indexed_slices.invariants, specs),
            )
            if sliced or held_specs
            else None,
            parallel_iterations=1,  # one micro-batch at a time, which is what saves memory
        )
        return put_together(carried), held

    def _one_by_one(self, values, element, share, first, scale, number) -> tuple[list, list]:
        total: list = []
        held: list = []
        for a in range(self._count):
            with tf.control_dependencies([t for t in total if isinstance(t, tf.Tensor)]):
                element = tf.nest.map_structure(tf.identity, element)
            sums = self._part_sums(values, element, share, first + a, scale, number)
            flat, previous = flat_sums(sums), held
            pairs = zip(total, flat, strict=True)
            total = [indexed_slices.added(x, y) for x, y in pairs] if a else flat
            held = list(sums.held)
            if a:
                held = [tf.concat(pair, 0) for pair in zip(previous, held, strict=True)]
        return total, held

    def _probe(self, values, element, share, scale, number) -> tuple[list, list]:
        """Traces one part to find the types of its sums, and of what is held."""
        specs: list = []
        held: list = []

        def trace():
            sums = self._part_sums(values, element, share, tf.constant(0), scale, number)
            specs.extend(map(indexed_slices.spec_of, flat_sums(sums)))
            held.extend(tf.TensorSpec(t.shape, t.dtype) for t in sums.held)

        tf.function(trace, autograph=False).get_concrete_function()
        return specs, held
