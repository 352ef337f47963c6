"""Dense networks on feature columns: DNNClassifier, DNNRegressor, DNNEstimator."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.estimator.canned.canned import (
    Canned,
    check_head,
    checked_columns,
    checked_units,
    if_training,
)
from tfbig.estimator.canned.networks import check_features, dnn_logits
from tfbig.estimator.canned.optimizers import checked_optimizer, make_optimizer
from tfbig.estimator.heads.head import Head
from tfbig.estimator.heads.regression import RegressionHead
from tfbig.programs.model_fn.spec import EstimatorSpec

_v1 = tf.compat.v1


class DNNEstimator(Canned):
    """A dense network on feature columns, with any head.

    Example:

        columns = [tf.feature_column.numeric_column("age")]
        head = tfbig.estimator.MultiLabelHead(n_classes=3)
        tfbig.estimator.DNNEstimator(head, [64, 32], columns, "runs/labels").train(input_fn)

    Args:
        head: of tfbig.estimator, such as MultiClassHead(3).
        hidden_units: of each hidden layer.
        feature_columns: of tf.feature_column. input_fn returns a dict of features.
        model_dir, config, warm_start_from, strategy, devices: as for Estimator.
        optimizer: "Adagrad", "Adam", "Ftrl", "RMSProp" or "SGD" with the class's own learning
            rate, an optimizer of keras.optimizers, or a function that returns one.
        activation_fn: of the hidden layers.
        dropout: the probability that an activation is left out in training; None for no dropout.
        batch_norm: whether each hidden layer is normalized over the batch.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        head: Head,
        hidden_units: Sequence[int],
        feature_columns: Sequence[Any],
        model_dir: Any = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable | None = tf.nn.relu,
        dropout: float | None = None,
        config: Any = None,
        warm_start_from: Any = None,
        batch_norm: bool = False,
        **placement: Any,
    ):
        columns = checked_columns("feature_columns", feature_columns)
        units, tf1 = checked_units("hidden_units", hidden_units), self.tf1
        check_head(head)
        chosen = checked_optimizer(optimizer, tf1)

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            check_features(features)
            with _v1.variable_scope("dnn"):
                logits = dnn_logits(
                    features, mode, head.logits_dimension, units, columns,
                    activation_fn, dropout, batch_norm,
                )  # fmt: skip
            made = if_training(mode, lambda: make_optimizer(chosen, 0.05 if tf1 else None, tf1))
            return head.create_estimator_spec(features, mode, logits, labels, made)

        super().__init__(model_fn, model_dir, config, None, warm_start_from, **placement)


class DNNClassifier(DNNEstimator):
    """A classifier: a dense network on feature columns.

    Example:

        columns = [tf.feature_column.numeric_column("petal_length")]
        classifier = tfbig.estimator.DNNClassifier([10, 10], columns, "runs/iris", n_classes=3)
        classifier.train(train_input_fn, steps=1000)
        print(classifier.evaluate(eval_input_fn)["accuracy"])
        for flower in classifier.predict(predict_input_fn):
            print(flower["class_ids"], flower["probabilities"])

    Args:
        hidden_units, feature_columns, model_dir, optimizer, activation_fn, dropout, config,
            warm_start_from, batch_norm, strategy, devices: as for DNNEstimator.
        n_classes: the number of classes.
        weight_column: the name of a feature with the examples' weights, or a numeric_column; or
            None.
        label_vocabulary: the labels, if labels are strings; None for 0, 1, ….
        loss_reduction: of tf.losses.Reduction. None: the mean over the batch; in
            tfbig.compat.v1.estimator the sum.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Sequence[Any],
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable | None = tf.nn.relu,
        dropout: float | None = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: Any = None,
        batch_norm: bool = False,
        **placement: Any,
    ):
        super().__init__(
            self.class_head(n_classes, label_vocabulary, weight_column, loss_reduction),
            hidden_units, feature_columns, model_dir, optimizer, activation_fn, dropout, config,
            warm_start_from, batch_norm, **placement,
        )  # fmt: skip


class DNNRegressor(DNNEstimator):
    """A regressor: a dense network on feature columns, with the squared error.

    Example: `tfbig.estimator.DNNRegressor([64], columns, "runs/prices").train(input_fn)`

    Args:
        hidden_units, feature_columns, model_dir, optimizer, activation_fn, dropout, config,
            warm_start_from, batch_norm, strategy, devices: as for DNNEstimator.
        label_dimension: the number of labels of an example.
        weight_column, loss_reduction: as for DNNClassifier.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Sequence[Any],
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable | None = tf.nn.relu,
        dropout: float | None = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: Any = None,
        batch_norm: bool = False,
        **placement: Any,
    ):
        super().__init__(
            RegressionHead(label_dimension, weight_column, self.reduction(loss_reduction)),
            hidden_units, feature_columns, model_dir, optimizer, activation_fn, dropout, config,
            warm_start_from, batch_norm, **placement,
        )  # fmt: skip
