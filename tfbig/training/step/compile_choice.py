"""jit_compile="auto": whether XLA makes the step faster, where that is known or can be measured."""

import logging
import time

import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Share
from tfbig.errors import UserError
from tfbig.layers.sharded_tables import shard_of
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.step.step import Step

log = logging.getLogger("tfbig")

_SECONDS = 0.03


def choose_jit(program: Program, placement: Placement, feed: Feed, config: RunConfig) -> bool:
    """Chooses between XLA and a TensorFlow graph for the step, and logs why.

    Where the whole loop can be compiled, XLA wins, except that on CPUs it runs convolutions
    inside of loops on one core. For the replicas of a mirrored placement on CPUs, neither wins
    always: both are timed.

    Returns:
        True: compile.

    Raises:
        UserError: jit_compile=True, and it is known that nothing could be compiled.
    """
    obstacle = _obstacle(program, placement, feed, config.accumulation_steps)
    if config.jit_compile is True and obstacle:
        raise UserError(f'jit_compile=True, but {obstacle}; write jit_compile="auto" or False.')
    if config.jit_compile != "auto":
        return config.jit_compile
    if obstacle:
        log.info("jit_compile=False: %s", obstacle)
        return False
    jit, why = _choose(program, placement, feed, config)
    log.info("jit_compile=%s: %s", jit, why)
    return jit


def _obstacle(program: Program, placement: Placement, feed: Feed, micro: int) -> str | None:
    """Why no batch could go through XLA, or None."""
    if not placement.compiles_parts:
        return "a step that reads its variables from ps is not compiled"
    if not feed.static:
        return "the shapes of the batches are not known before they are read"
    if any(spec.dtype == tf.string for spec in tf.nest.flatten(feed.element_spec)):
        return "XLA cannot take strings"
    if any(shard_of(v) for v in [*program.trainable, *program.state]):
        return "XLA would make gradients of whole tables, and a ShardedEmbedding has those of rows"
    if program.tables:
        return "XLA cannot compile lookup tables"
    if program.without_xla:
        return f"XLA cannot compile a layer of the class {program.without_xla}"
    if not (program.exact_with_padding or feed.full):
        return "a batch cannot be cut into equal parts, and padding would not be exact"
    if not placement.compiles_whole_loop and program.runs_custom_step(training=True):
        return "XLA cannot compile a train_step that changes variables of several replicas"
    if program.needs_whole_batches and placement.num_replicas * micro > 1:
        return "the model has a metric of whole batches, and each is worked through in parts"
    if not placement.compiles_whole_loop and not program.pure:
        return "XLA cannot compile a model_fn that changes variables of several replicas"
    if not placement.compiles_whole_loop and program.couples_replicas:
        return "XLA cannot compile layers that work across replicas"
    return None


def _choose(program, placement, feed, config) -> tuple[bool, str]:
    if program.updates.weights is not None and not tf.config.list_physical_devices("GPU"):
        return False, "with weights in slices each block would be compiled by itself, which is slow"
    if program.runs_custom_step(training=True):
        return False, "XLA may not compile a model's own train_step, and draws other random numbers"
    if tf.config.list_physical_devices("GPU"):
        return True, "the step runs on a GPU"
    if placement.compiles_whole_loop:
        if program.has_convolutions:
            return False, "on CPUs, convolutions are slow inside of compiled loops"
        return True, "the whole loop can be compiled"
    graph = _seconds_per_step(program, placement, feed, config, jit=False)
    try:
        compiled = _seconds_per_step(program, placement, feed, config, jit=True)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        return False, f"XLA cannot compile the step ({' '.join(str(error).split())[:120]})"
    measured = f"{compiled * 1e3:.3g} ms compiled, {graph * 1e3:.3g} ms as a graph"
    return compiled < graph, f"measured on one part of a batch, {measured}"


def _seconds_per_step(program, placement, feed, config, *, jit: bool) -> float:
    """The time that one replica's part of a batch of zeros takes, forward and backward."""
    step = Step(
        program,
        placement,
        training=True,
        aggregation=config.gradient_aggregation,
        micro_batches=config.accumulation_steps,
        rows=feed.rows,
        exact=False,
    )
    compute = tf.function(step.replica_sums, jit_compile=jit or None, autograph=False)
    element = tf.nest.map_structure(
        lambda s: tf.zeros([feed.rows, *s.shape[1:]], s.dtype), feed.element_spec
    )
    held = -(-feed.batch_size // feed.workers)
    share = Share(*map(tf.constant, (held, feed.batch_size, 0)))
    first, scale = tf.constant(placement.first_replica), tf.ones([])
    with placement.scope():
        values = program.read()

    @tf.function(autograph=False)
    def repeat(times, values, element):
        def body(i, *trainable):
            values_now = values._replace(trainable=list(trainable))
            sums = compute(values_now, element, share, first, scale, tf.cast(i, tf.int64))
            # The weights must change, or the whole body is taken out of the loop.
            moved = [
                t if g is None else t - tf.cast(1e-9, t.dtype) * g
                for t, g in zip(trainable, sums.gradients[0], strict=True)
            ]
            return (i + 1, *moved)

        start = (tf.constant(0), *values.trainable)
        return tf.while_loop(lambda i, *_: i < times, body, start, parallel_iterations=1)

    with program.tracing():
        repeat(tf.constant(1), values, element)
    times, best = 1, float("inf")
    for _ in range(4):
        start = time.perf_counter()
        repeat(tf.constant(times), values, element)
        best = min(best, (time.perf_counter() - start) / times)
        times = max(1, min(int(_SECONDS / best), 10_000))
    return best
