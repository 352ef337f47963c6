"""What a model_fn has of Keras: its dtype policy, its loss scaling and its metrics."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig.programs.model_fn.spec import EstimatorSpec
from tfbig.programs.model_fn.variable_store import VariableStore

log = logging.getLogger("tfbig")


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets the dtype policy of Keras inside the block, for this thread: replicas are threads."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def warn_of_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Warns of use_ema, whose averages nothing reads from the checkpoints of a model_fn."""
    if optimizer.use_ema:
        log.warning(
            "the optimizer has use_ema=True, but an Estimator evaluates, predicts with and exports "
            "the weights themselves; a Keras builder in tfbig.train_distributed uses the averages"
        )


def scale_loss(spec: EstimatorSpec, store: VariableStore) -> None:
    """Wraps the optimizer of a spec in a LossScaleOptimizer, unless it is one.

    Args:
        spec: of TRAIN mode, from the last scope of the store.
        store: gets the variables of the wrapper.
    """
    if hasattr(spec.optimizer, "inner_optimizer"):
        return
    closed, store.closed = store.closed, False
    with store.continued():
        scaled = keras.optimizers.LossScaleOptimizer(
            spec.optimizer,
            name="loss_scale_optimizer",  # the same in every trace
        )
    store.closed = closed
    object.__setattr__(spec, "optimizer", scaled)


def keras_result(name: str, metric: keras.metrics.Metric) -> dict[str, Any]:
    """The result of a Keras metric by name; a dict of results has its own names."""
    found = metric.result()
    return found if isinstance(found, dict) else {name: found}


def plain_value(value: Any) -> Any:
    """The value of a metric without TensorFlow: a float, bytes, an array, or nested ones."""
    return tf.nest.map_structure(_plain_leaf, value)


def _plain_leaf(leaf: Any) -> Any:
    array = np.asarray(keras.ops.convert_to_numpy(leaf))
    if array.dtype == object:
        return array.item() if array.ndim == 0 else array
    return float(array) if array.ndim == 0 else array
