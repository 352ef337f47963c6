"""Linear models on feature columns: LinearClassifier, LinearRegressor, LinearEstimator."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.estimator.canned.canned import Canned, check_head, checked_columns, if_training
from tfbig.estimator.canned.networks import check_features, linear_logits
from tfbig.estimator.canned.optimizers import checked_optimizer, make_optimizer
from tfbig.estimator.heads.head import Head
from tfbig.estimator.heads.regression import RegressionHead
from tfbig.programs.model_fn.spec import EstimatorSpec

_v1 = tf.compat.v1
_COMBINERS = ("sum", "mean", "sqrtn")


class LinearEstimator(Canned):
    """A linear model on feature columns, with any head.

    Example:

        head = tfbig.estimator.PoissonRegressionHead()
        tfbig.estimator.LinearEstimator(head, columns, "runs/counts").train(input_fn)

    Args:
        head: of tfbig.estimator, such as MultiClassHead(3).
        feature_columns: of tf.feature_column. input_fn returns a dict of features.
        model_dir, config, warm_start_from, strategy, devices: as for Estimator.
        optimizer: as for DNNEstimator, but with the learning rate 0.2 for a name; None: "Ftrl"
            with the smaller of 0.2 and 1/sqrt(number of columns).
        sparse_combiner: "sum", "mean" or "sqrtn" of the values of a categorical column.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        head: Head,
        feature_columns: Sequence[Any],
        model_dir: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        sparse_combiner: str = "sum",
        warm_start_from: Any = None,
        **placement: Any,
    ):
        columns, tf1 = checked_columns("feature_columns", feature_columns), self.tf1
        rate = 0.2 if optimizer is not None else min(0.2, 1 / math.sqrt(len(columns)))
        check_head(head)
        check_combiner(sparse_combiner)
        chosen = checked_optimizer("Ftrl" if optimizer is None else optimizer, tf1)

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            check_features(features)
            with _v1.variable_scope("linear"):
                logits = linear_logits(features, head.logits_dimension, columns, sparse_combiner)
            made = if_training(mode, lambda: make_optimizer(chosen, rate, tf1))
            return head.create_estimator_spec(features, mode, logits, labels, made)

        super().__init__(model_fn, model_dir, config, None, warm_start_from, **placement)


class LinearClassifier(LinearEstimator):
    """A classifier: a linear model on feature columns.

    Example: `tfbig.estimator.LinearClassifier(columns, "runs/census").train(input_fn)`

    Args:
        feature_columns, model_dir, optimizer, config, warm_start_from, sparse_combiner, strategy,
            devices: as for LinearEstimator.
        n_classes, weight_column, label_vocabulary, loss_reduction: as for DNNClassifier.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        feature_columns: Sequence[Any],
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: Any = None,
        sparse_combiner: str = "sum",
        **placement: Any,
    ):
        super().__init__(
            self.class_head(n_classes, label_vocabulary, weight_column, loss_reduction),
            feature_columns, model_dir, optimizer, config, sparse_combiner, warm_start_from,
            **placement,
        )  # fmt: skip


class LinearRegressor(LinearEstimator):
    """A regressor: a linear model on feature columns, with the squared error.

    Example: `tfbig.estimator.LinearRegressor(columns, "runs/prices").train(input_fn)`

    Args:
        feature_columns, model_dir, optimizer, config, warm_start_from, sparse_combiner, strategy,
            devices: as for LinearEstimator.
        label_dimension, weight_column, loss_reduction: as for DNNRegressor.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        feature_columns: Sequence[Any],
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: Any = None,
        sparse_combiner: str = "sum",
        **placement: Any,
    ):
        super().__init__(
            RegressionHead(label_dimension, weight_column, self.reduction(loss_reduction)),
            feature_columns, model_dir, optimizer, config, sparse_combiner, warm_start_from,
            **placement,
        )  # fmt: skip


def check_combiner(value: Any) -> None:
    """Raises a UserError if a sparse_combiner is unknown."""
    if value not in _COMBINERS:
        raise UserError(f"sparse_combiner={value!r}: expected one of {_COMBINERS}.")
