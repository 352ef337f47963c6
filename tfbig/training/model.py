"""Makes the program of a run and its variables, where they will be trained or used."""

import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfbig.data.feeds.feed import Feed
from tfbig.errors import UserError
from tfbig.placement.control.preflight import compare
from tfbig.placement.owner.owner_updates import make_updates
from tfbig.placement.placement import Placement
from tfbig.programs.feature_matching import refuse_positional_matches
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.model_fn.call import ModelFnRecorder, is_estimator_style
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.programs.program import Program, split_element
from tfbig.run_config import RunConfig
from tfbig.training.feeds import RunData
from tfbig.training.loop.agreement import broadcast_variables
from tfbig.training.out_of_memory import check_memory
from tfbig.training.request import TrainRequest
from tfbig.training.step.own_train_step import checked_program

log = logging.getLogger("tfbig")


class RunModel(NamedTuple):
    """The model of a run.

    Attributes:
        program: built, with the same values on all tasks.
        builder: of the keras.Model, or None.
        watched: the model_fn of estimator style and the specs that it returned, or None.
    """

    program: Program
    builder: KerasBuilder | None
    watched: ModelFnRecorder | None


def build_model(request: TrainRequest, placement: Placement, data: RunData, seed: int) -> RunModel:
    """Makes a program and all its variables, where they will be trained.

    Args:
        request: has the model_fn.
        placement: where.
        data: whose batches the model takes.
        seed: of the run.

    Raises:
        UserError: the model cannot be used, or does not fit the data.
    """
    config, builder, watched = request.config, None, None
    if config.tf_random_seed is not None:  # whatever input_fn has drawn
        keras.utils.set_random_seed(seed)
    precision = precision_of(config)
    updates = make_updates(config, placement)
    program: Program
    if is_estimator_style(request.model_fn):
        if config.remat:
            raise UserError(
                "remat=True divides a Keras model into blocks, and model_fn is of estimator "
                "style; leave remat out, or wrap the function of a block in "
                "tf.recompute_grad inside model_fn."
            )
        watched = ModelFnRecorder(request.model_fn)
        program = ModelFnProgram(watched, request.params, config, placement.scope, precision)
    else:
        builder = KerasBuilder(request.model_fn, request.params, precision)
        with placement.scope(), updates.creating_weights():
            model = builder.build(lambda value: updates.stores(value) or placement.owns(value))
            program = checked_program(model, placement, config, data.feed)
    program.updates = updates
    check_memory(program, placement, config)
    build_program(program, placement, data.feed, training=True)
    updates.report(program)
    placement.check_owned(program.named_variables().values())
    if data.eval_feed is not None:
        program.check_evaluation(data.eval_feed.element_spec)
    compare(placement.peers, _described(program))
    broadcast_variables(program, placement)
    if program.per_replica_statistics and placement.num_replicas > 1:
        log.info(
            "BatchNormalization normalises over each replica's part of a batch; "
            "synchronized=True would normalise over the whole"
        )
    return RunModel(program, builder, watched)


def precision_of(config: RunConfig) -> str:
    """The Keras dtype policy of a run: the config's, or for the default that of the user."""
    if config.precision == "float32":  # the default: a policy that the user has set stays
        return keras.config.dtype_policy().name
    return config.precision


def _described(program: Program) -> dict[str, str]:
    """What must be the same for the models of all tasks, by field: variables and optimizers."""
    variables = {
        name: f"{v.dtype.name}{list(v.shape)}" for name, v in program.named_variables().items()
    }
    return {
        "model": ", ".join(f"{name} {kind}" for name, kind in variables.items()),
        "optimizer": json.dumps(program.optimizer_config(), default=str, sort_keys=True),
        "settings of the model": json.dumps(program.settings(), default=str, sort_keys=True),
    }


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
        with placement.scope(), refuse_positional_matches():
            concrete = tf.function(traced, autograph=False).get_concrete_function(*specs)
        return {operation.type for operation in concrete.graph.get_operations()}

    return run
