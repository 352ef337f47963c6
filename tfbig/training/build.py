"""Builds a program's variables for the batches of a feed, where they will be trained or used."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.data.feeds.feed import Feed
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program, split_element
from tfbig.programs.taken_features import refusing_pairs_by_place


def build_program(program: Program, placement: Placement, feed: Feed, *, training: bool) -> None:
    """Makes all variables of one mode before the first step is traced.

    They must be there before a checkpoint is restored and before the loop is compiled.
    """
    run = _tracer(program, placement, feed.rows)
    with placement.scope():
        (program.build if training else program.build_evaluation)(feed.element_spec, run)


def build_for_prediction(program: Any, placement: Placement, element_spec: Any) -> None:
    """Makes the variables of a ModelFnProgram in PREDICT mode, for batches of any size."""
    features, _, _ = split_element(element_spec)
    program.build_prediction(features, _tracer(program, placement, None))


def _tracer(program: Program, placement: Placement, rows: int | None) -> Callable:
    def run(fn, flat_spec):
        """Traces `fn` as a step would be traced, on every replica, and throws the trace away."""

        def traced(*tensors):
            with program.tracing():
                return placement.run(fn, tensors)

        specs = [tf.TensorSpec([rows, *s.shape[1:]], s.dtype) for s in flat_spec]
        with placement.scope(), refusing_pairs_by_place():
            concrete = tf.function(traced, autograph=False).get_concrete_function(*specs)
        return {operation.type for operation in concrete.graph.get_operations()}

    return run
