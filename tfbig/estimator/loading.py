"""A model_fn with a checkpoint's values, to be evaluated, used or exported."""

import logging
from collections.abc import Callable
from typing import Any

import keras

from tfbig.data.feeds.feed import Feed
from tfbig.placement.placement import Placement
from tfbig.programs.model_fn.call import ModelFnRecorder
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.run_config import RunConfig
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint
from tfbig.training.checkpoints.resuming import broadcast_assign
from tfbig.training.model import build_for_prediction, build_program

log = logging.getLogger("tfbig")


def load_program(
    watched: ModelFnRecorder,
    params: Any,
    config: RunConfig,
    placement: Placement,
    feed: Feed,
    mode: str,
    checkpoint: str | None,
    initialize: Callable | None = None,
) -> ModelFnProgram:
    """Builds a model_fn in EVAL or PREDICT mode and gives it the chief's checkpoint.

    Args:
        watched: the model_fn.
        params, config: handed to it.
        placement: where its variables are.
        feed: of the batches it will be called with.
        mode: ModeKeys.EVAL or PREDICT.
        checkpoint: the chief's, as for NamedCheckpoint; None: it keeps its initial values.
        initialize: what a run without a checkpoint takes values from, or None.
    """
    if config.tf_random_seed is not None:
        keras.utils.set_random_seed(config.tf_random_seed)
    precision = config.precision
    if precision == "float32":  # the default; a policy that the user has set stays
        precision = keras.config.dtype_policy().name
    program = ModelFnProgram(watched, params, config, placement.scope, precision)
    if mode == ModeKeys.PREDICT:
        build_for_prediction(program, placement, feed.element_spec)
    else:
        build_program(program, placement, feed, training=False)
    values = None
    if placement.peers.is_chief:
        if checkpoint is not None:
            values = NamedCheckpoint(checkpoint).values_for(program.named_variables())
        elif initialize is not None:
            values = initialize(program)
    broadcast_assign(program, values, placement.peers)
    if checkpoint is not None:
        log.info("restored %s", checkpoint)
    return program
