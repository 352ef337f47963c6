"""Loads a checkpoint into a model_fn's program, for evaluation, prediction and export."""

import logging
from collections.abc import Callable
from typing import Any

import keras

from tfbig.clusters.find import find_cluster
from tfbig.data.feeds.feed import Feed
from tfbig.placement.placement import Placement
from tfbig.placement.strategies import make_placement
from tfbig.programs.model_fn.call import ModelFnRecorder
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.run_config import RunConfig
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint
from tfbig.training.checkpoints.resuming import broadcast_assign
from tfbig.training.model import build_for_prediction, build_program, precision_of

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
    """Builds a model_fn in EVAL or PREDICT mode and loads the chief's checkpoint.

    Args:
        watched: the model_fn.
        params, config: passed to the model_fn.
        placement: where the variables are created.
        feed: reads the batches that the model_fn will be called with.
        mode: ModeKeys.EVAL or PREDICT.
        checkpoint: the path on the chief, as for NamedCheckpoint; None keeps the initial values.
        initialize: returns initial values by variable for a run without a checkpoint; or None.
    """
    if config.tf_random_seed is not None:
        keras.utils.set_random_seed(config.tf_random_seed)
    precision = precision_of(config)
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


def find_checkpoint(estimator: Any, path: Any, purpose: str) -> list:
    """Returns the path and the step of the checkpoint to use; None and 0 if there is none yet.

    Args:
        estimator: a tfbig.Estimator.
        path: the user's checkpoint_path; None for the newest.
        purpose: "evaluate" or "predict", for the warning that there is none.

    Raises:
        UserError: there is no checkpoint at the path.
    """
    if path is None and estimator.latest_checkpoint() is None:
        log.warning(
            "Could not find trained model in model_dir: %s, running initialization to %s",
            estimator.model_dir,
            purpose,
        )
        return [None, 0]
    path = estimator.checkpoint(path)
    return [path, NamedCheckpoint(path).step]


def placement_outside_training(estimator: Any) -> Placement:
    """Returns the placement for evaluation, prediction and export.

    Parameter servers are used for training only. For everything else, each task of their cluster
    loads the checkpoint on its own devices.

    Raises:
        UserError: `make_placement` refuses the strategy or the devices.
    """
    strategy = "auto" if estimator.strategy == "parameter_server" else estimator.strategy
    return make_placement(strategy, estimator.devices)


def writes_results(placement: Placement) -> bool:
    """Whether this task writes the results that all tasks of a cluster compute."""
    cluster = find_cluster()
    if cluster is not None and cluster.strategy == "parameter_server":
        return cluster.task_type == "chief"
    return placement.peers.is_chief
