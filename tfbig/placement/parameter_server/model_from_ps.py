"""At the end of a run with parameter servers, the chief reads the model from the ps."""

import logging
from typing import Any

import keras

from tfbig.layers.sharded_tables import parameter_server_scope
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.keras.copied_values import bytes_of_all, copy_values
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.program import Program

log = logging.getLogger("tfbig")

_MOST_BYTES = 4 * 2**30  # with the optimizer's state; a model that needs ps may need all of them


def fetch_model_from_ps(
    builder: KerasBuilder, program: Program, element_spec: Any, step: int, servers: int
) -> keras.Model | None:
    """Builds the model again in this process, with the values of the variables on ps.

    Args:
        builder: of the model.
        program: whose variables are on ps.
        element_spec: of its batches.
        step: the global step at which training ended.
        servers: how many ps there are.

    Returns:
        The model with its optimizer's state; None if they are too large for this process.
    """
    there = program.named_variables()
    size = bytes_of_all(there)
    if size > _MOST_BYTES:
        log.info(
            "the model and its optimizer have %.3g GB, too large to return; use the checkpoints in "
            "model_dir",
            size / 1e9,
        )
        return None
    with parameter_server_scope(servers):  # tables in as many shards
        model = builder.build(lambda variable: True)
        here = KerasProgram(model)
        here.build(element_spec, None)
    copy_values(there, here, step)
    return model
