"""Builds a program's variables for the batches of a feed, where they will be trained."""

import tensorflow as tf

from tfbig.data.feed import Feed
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program


def build_program(program: Program, placement: Placement, feed: Feed, *, training: bool) -> None:
    """Makes all variables of one mode before the first step is traced.

    They must be there before a checkpoint is restored and before the loop is compiled.
    """

    def run(fn, flat_spec):
        """Traces `fn` as a step would be traced, on every replica, and throws the trace away."""

        def traced(*tensors):
            with program.tracing():
                return placement.run(fn, tensors)

        specs = [tf.TensorSpec([feed.rows, *s.shape[1:]], s.dtype) for s in flat_spec]
        with placement.scope():
            concrete = tf.function(traced, autograph=False).get_concrete_function(*specs)
        return {operation.type for operation in concrete.graph.get_operations()}

    if training:
        with placement.scope():
            program.build(feed.element_spec, run)
    else:
        program.build_evaluation(feed.element_spec, run)
