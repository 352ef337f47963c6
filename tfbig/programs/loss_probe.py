"""Whether a loss compares the examples of a batch with each other, found out by trying."""

import logging
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig.programs.observing import is_own

log = logging.getLogger("tfbig")

_COMPARE = (keras.losses.circle,)
_ROWS = 6


def compares_examples(loss: keras.losses.Loss, labels: Any, output: Any) -> bool:
    """Whether an example's value depends on the others of its batch, as in a contrastive loss.

    Keras's own are known. Others are given random numbers: a batch, and its two halves. False
    where that cannot be done.

    Args:
        loss: gives a value for each example.
        labels, output: tensors of shape [n, …], of which the shapes and types count.
    """
    function = getattr(loss, "fn", None)
    if is_own(type(loss)) and is_own(function):
        return function in _COMPARE
    try:
        with tf.init_scope():  # out of the trace
            random = np.random.default_rng(0)
            y, p = (_random(random, tensor) for tensor in (labels, output))
            whole = keras.ops.convert_to_numpy(loss.call(y, p))
            half = _ROWS // 2
            halves = [loss.call(y[:half], p[:half]), loss.call(y[half:], p[half:])]
            apart = np.concatenate([keras.ops.convert_to_numpy(h) for h in halves])
    except Exception as error:  # it may need labels of a form that random numbers do not have
        log.debug("%s could not be tried on random numbers: %s", loss, error)
        return False
    return whole.shape == apart.shape and not np.allclose(whole, apart, 1e-4, 1e-6)


def _random(random: np.random.Generator, tensor: Any) -> tf.Tensor:
    shape = [_ROWS, *(4 if size is None else size for size in tensor.shape[1:])]
    if tensor.dtype.is_floating:
        return tf.constant(random.uniform(0.05, 0.95, shape), tensor.dtype)
    return tf.cast(random.integers(0, 2, shape), tensor.dtype)
