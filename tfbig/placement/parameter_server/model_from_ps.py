"""The end of a run with parameter servers: the chief takes the model from the ps."""

import logging
from typing import Any

import keras

from tfbig.layers.rows import for_servers
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.program import Program

log = logging.getLogger("tfbig")

_MOST_BYTES = 4 * 2**30  # with the optimizer's state; a model that needs ps may need all of them


def fetch_model_from_ps(
    builder: KerasBuilder, program: Program, element_spec: Any, step: int, servers: int
) -> keras.Model | None:
    """Builds a model again in this process, with the values of the one that is on ps.

    Args:
        builder: of the model.
        program: of the one on ps.
        element_spec: of its batches.
        step: at which training has ended.
        servers: how many ps there are.

    Returns:
        The model with its optimizer's state; None if they are too large to have them here.
    """
    there = program.named_variables()
    size = sum(v.shape.num_elements() * v.dtype.size for v in there.values())
    if size > _MOST_BYTES:
        log.info(
            "the model and its optimizer have %.3g GB, and stay on the ps; use what was saved in "
            "model_dir",
            size / 1e9,
        )
        return None
    with for_servers(servers):  # tables in as many shards
        model = builder.build(lambda variable: True)
        here = KerasProgram(model)
        here.build(element_spec, None)
    here.enter(step)
    # In their order: the names of a subclass's variables tell how many were made before.
    for mine, theirs in zip(here.named_variables().values(), there.values(), strict=True):
        mine.assign(theirs.numpy())
    here.settle()
    return model
