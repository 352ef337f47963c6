"""A model_fn's train_op as the optimizer, and its program as the model that callbacks see."""

from typing import Any

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.updates import Updates


def check_train_op(traced: Any, store: Any, updates: Updates, precision: str) -> None:
    """Refuses options that a TensorFlow 1 train_op does not support.

    Raises:
        UserError: the message says what to write instead.
    """
    if not updates.slots_are_whole:
        raise UserError(
            f"RunConfig(model_distribution={updates.distribution!r}) divides the state of a Keras "
            "optimizer, and model_fn returns a train_op; pass optimizer=<a Keras optimizer> to "
            'EstimatorSpec, or write model_distribution="replicated".'
        )
    if traced.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UserError(
            "model_fn has a layer with synchronized=True and returns a train_op, whose graph is "
            "traced for one replica; pass optimizer=<a Keras optimizer> to EstimatorSpec, or leave "
            "synchronized out."
        )
    if precision == "mixed_float16":
        raise UserError(
            'RunConfig(precision="mixed_float16") needs loss scaling, which a train_op lacks; '
            "pass optimizer=<a Keras optimizer> to EstimatorSpec, or write "
            'precision="mixed_bfloat16".'
        )
    if precision != "float32" and not any(store.is_of_keras(name) for name in traced.names):
        raise UserError(
            f"RunConfig(precision={precision!r}) is a policy of Keras layers, and model_fn creates "
            "none; cast inside model_fn, and leave precision out."
        )


class TrainOpOptimizer:
    """The optimizer that the loop and callbacks see if model_fn returns a train_op.

    Args:
        graph: the TrainingGraph.
    """

    def __init__(self, graph: Any):
        self._graph = graph

    def scale_loss(self, loss: Any) -> Any:
        """Returns the loss unchanged: a train_op does not scale it."""
        return loss

    @property
    def learning_rate(self) -> float | None:
        """The current learning rate of the first optimizer, or None if it is unknown."""
        return self._graph.learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        raise AttributeError(
            "a callback sets optimizer.learning_rate, but model_fn returns a train_op, whose "
            "learning rate is fixed in its graph; compute it from the global step there, or pass "
            "optimizer=<a Keras optimizer> to EstimatorSpec."
        )


class CallbackModel:
    """The `self.model` of callbacks for a model_fn: it has `optimizer` and `stop_training`."""

    def __init__(self, program: Any):
        self._program = program
        self.stop_training = False

    @property
    def optimizer(self) -> Any:
        """The optimizer of the program."""
        return self._program.optimizer

    @property
    def metric_values(self) -> dict[str, Any]:
        """The metrics of the last evaluation in this process, as eval_metric_ops has them."""
        return self._program.metric_values

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a callback asked for model.{name}, but an estimator-style model_fn has no "
            "keras.Model; such callbacks need a Keras builder. The model has only "
            "model.optimizer and model.stop_training."
        )
