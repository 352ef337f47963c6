"""A model_fn's train_op in the place of an optimizer."""

from typing import Any

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.updates import Updates


def check_train_op(traced: Any, store: Any, updates: Updates, precision: str) -> None:
    """Refuses what a train_op of TensorFlow 1 cannot do.

    Raises:
        UserError: the message says what to write.
    """
    if not updates.whole:
        raise UserError(
            'RunConfig(model_distribution="owner") divides the state of a Keras optimizer, and '
            "model_fn returns a train_op; pass optimizer=<a Keras optimizer> to EstimatorSpec, or "
            'write model_distribution="replicated".'
        )
    if traced.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UserError(
            "model_fn has a layer with synchronized=True and returns a train_op, whose graph is "
            "that of one replica; pass optimizer=<a Keras optimizer> to EstimatorSpec, or leave "
            "synchronized out."
        )
    if precision == "mixed_float16":
        raise UserError(
            'RunConfig(precision="mixed_float16") needs a scaled loss, which a train_op has not; '
            "pass optimizer=<a Keras optimizer> to EstimatorSpec, or write "
            'precision="mixed_bfloat16".'
        )
    if precision != "float32" and not any(store.is_of_keras(name) for name in traced.names):
        raise UserError(
            f"RunConfig(precision={precision!r}) is a policy of Keras layers, and model_fn makes "
            "none; cast inside model_fn, and leave precision out."
        )


class TrainOp:
    """What the loop and callbacks see as the optimizer where a train_op updates.

    Args:
        graph: the TrainingGraph.
    """

    def __init__(self, graph: Any):
        self._graph = graph

    def scale_loss(self, loss: Any) -> Any:
        return loss

    @property
    def learning_rate(self) -> float | None:
        """The rate of the first optimizer as it is now, or None: it is not known."""
        return self._graph.learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        raise AttributeError(
            "a callback sets optimizer.learning_rate, but model_fn returns a train_op, whose "
            "learning rate is fixed in its graph; compute it from the global step there, or pass "
            "optimizer=<a Keras optimizer> to EstimatorSpec."
        )
