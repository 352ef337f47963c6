"""What an assertion in a model_fn says of a batch, which XLA has left out of the step."""

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.programs.program import BatchPart


def failed_check(fetch_tensors: Callable, mode: str, features: Any, labels: Any) -> str | None:
    """Computes the loss of a batch without XLA; returns what an assertion says of it, or None.

    Args:
        fetch_tensors: of the ModelFnProgram.
        mode: a ModeKeys value that has been built.
        features, labels: structures of NumPy arrays; labels may be None.
    """
    element = (features,) if labels is None else (features, labels)

    @tf.function(autograph=False)
    def loss(features, labels=None):
        batch = BatchPart(features, labels, None, None, tf.constant(1.0))
        return fetch_tensors(batch, mode, lambda traced: [traced.spec.loss.name])

    try:
        loss(*tf.nest.map_structure(tf.convert_to_tensor, element))
    except tf.errors.InvalidArgumentError as error:
        said = re.search(r"assertion failed: \[(.*?)\]", error.message)
        return said[1] if said else None
    return None
