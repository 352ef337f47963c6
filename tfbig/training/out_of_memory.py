"""Explains that a task has run out of memory."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfbig.errors import OutOfMemory
from tfbig.placement.free_memory import free_memory, readable_bytes
from tfbig.placement.placement import Placement
from tfbig.run_config import RunConfig

_FULL = 'write model_distribution="owner_full", with which each of several workers holds a part'
_ADVICE = {
    "replicated": f"each worker holds all weights, gradients and optimizer state; {_FULL}",
    "owner": f"each worker holds all weights and gradients; {_FULL}",
    "owner_gradients": f"each worker holds all weights; {_FULL}",
    "owner_full": "each worker holds a part of everything, the activations of its examples, and "
    "the largest blocks; use more workers",
}


def check_memory(program: Any, placement: Placement, config: RunConfig) -> None:
    """Checks that gradients and optimizer state will fit, before they are made.

    TensorFlow's libraries crash where the system refuses them memory.

    Args:
        program: with the weights of a Keras model, not built yet.
        placement: of its replicas.
        config: of the run.

    Raises:
        OutOfMemory: they will not fit.
    """
    on_cpu = not tf.config.list_physical_devices("GPU")
    free = free_memory() if on_cpu and program.model is not None and program.model.built else None
    if free is None:
        return
    variables = program.model.trainable_variables
    needed = program.updates.bytes_to_come(program.optimizer, variables) * placement.local_replicas
    if needed > free.size:
        raise OutOfMemory(
            f"gradients and optimizer state need {readable_bytes(needed)} besides the weights, and "
            f"{free.limit} leaves {readable_bytes(free.size)}. {_advice(config)}."
        )


def _advice(config: RunConfig) -> str:
    name = config.model_distribution
    return f'With model_distribution="{name}" {_ADVICE[name]}'


@contextlib.contextmanager
def explained_out_of_memory(config: RunConfig) -> Iterator[None]:
    """Raises an OutOfMemory with advice in place of TensorFlow's or NumPy's error.

    Args:
        config: of the run.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        reason = " ".join(str(getattr(error, "message", None) or error).split())
        reason = reason.split("}} ")[-1][:160] or type(error).__name__
        raise OutOfMemory(
            f"this task has run out of memory ({reason}). {_advice(config)}; or write "
            "remat=True, accumulation_steps=2 or more, or smaller batches."
        ) from error
