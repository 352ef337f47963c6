"""Wide and deep models: DNNLinearCombinedClassifier, …Regressor and …Estimator.

A linear model of crossed columns and a dense network are trained together, each with an optimizer
of its own (Cheng et al., 2016, https://arxiv.org/abs/1606.07792).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.estimator.canned.canned import Canned, check_head, checked_columns, checked_units
from tfbig.estimator.canned.linear import check_combiner
from tfbig.estimator.canned.networks import check_features, dnn_logits, linear_logits
from tfbig.estimator.canned.optimizers import checked_optimizer, make_optimizer, minimize
from tfbig.estimator.heads.head import Head
from tfbig.estimator.heads.regression import RegressionHead
from tfbig.programs.model_fn.spec import EstimatorSpec

_v1 = tf.compat.v1


class DNNLinearCombinedEstimator(Canned):
    """A wide and deep model, with any head.

    Example:

        fc = tf.feature_column
        job = fc.categorical_column_with_hash_bucket("job", 100)
        tfbig.estimator.DNNLinearCombinedEstimator(
            tfbig.estimator.BinaryClassHead(), "runs/census",
            linear_feature_columns=[job, fc.crossed_column(["job", "sex"], 200)],
            dnn_feature_columns=[fc.numeric_column("age"), fc.embedding_column(job, 8)],
            dnn_hidden_units=[100, 50])

    Args:
        head: of tfbig.estimator, such as MultiClassHead(3).
        model_dir, config, warm_start_from, strategy, devices: as for Estimator.
        linear_feature_columns: of the linear model; None for a dense network alone.
        linear_optimizer: as for DNNEstimator; a name has the learning rate 0.005, or
            1/sqrt(number of columns) if that is smaller.
        dnn_feature_columns: of the dense network; None for a linear model alone.
        dnn_optimizer: as for DNNEstimator; a name has the learning rate 0.001.
        dnn_hidden_units, dnn_activation_fn, dnn_dropout, batch_norm: as for DNNEstimator, without
            dnn_.
        linear_sparse_combiner: as sparse_combiner of LinearEstimator.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        head: Head,
        model_dir: Any = None,
        linear_feature_columns: Sequence[Any] | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Sequence[Any] | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Callable | None = tf.nn.relu,
        dnn_dropout: float | None = None,
        config: Any = None,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
        warm_start_from: Any = None,
        **placement: Any,
    ):
        if not linear_feature_columns and not dnn_feature_columns:
            raise UserError(
                "Either linear_feature_columns or dnn_feature_columns must be defined; pass a list "
                "of columns of tf.feature_column."
            )
        wide = linear_feature_columns and checked_columns(
            "linear_feature_columns", linear_feature_columns
        )
        deep = dnn_feature_columns and checked_columns("dnn_feature_columns", dnn_feature_columns)
        if deep and not dnn_hidden_units:
            raise UserError(
                "dnn_hidden_units must be defined when dnn_feature_columns is specified."
            )
        units = checked_units("dnn_hidden_units", dnn_hidden_units or [])
        check_head(head)
        check_combiner(linear_sparse_combiner)
        tf1 = self.tf1
        of_linear = checked_optimizer(linear_optimizer, tf1)
        of_dnn = checked_optimizer(dnn_optimizer, tf1)

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            check_features(features)
            size, logits = head.logits_dimension, []
            if deep:
                with _v1.variable_scope("dnn"):
                    logits.append(
                        dnn_logits(
                            features, mode, size, units, deep,
                            dnn_activation_fn, dnn_dropout, batch_norm,
                        )
                    )  # fmt: skip
            if wide:
                with _v1.variable_scope("linear"):
                    logits.append(linear_logits(features, size, wide, linear_sparse_combiner))

            def train(loss: tf.Tensor) -> tf.Operation:
                updates = [_v1.assign_add(_v1.train.get_or_create_global_step(), 1).op]
                if deep:
                    optimizer = make_optimizer(of_dnn, 0.001, tf1)
                    updates += minimize(optimizer, loss, "dnn/")
                if wide:
                    rate = min(0.005, 1 / math.sqrt(len(wide)))
                    optimizer = make_optimizer(of_linear, rate, tf1)
                    updates += minimize(optimizer, loss, "linear/")
                return tf.group(*updates)

            return head.create_estimator_spec(
                features, mode, sum(logits[1:], logits[0]), labels, train_op_fn=train
            )

        super().__init__(model_fn, model_dir, config, None, warm_start_from, **placement)


class DNNLinearCombinedClassifier(DNNLinearCombinedEstimator):
    """A wide and deep classifier.

    Example:

        classifier = tfbig.estimator.DNNLinearCombinedClassifier(
            "runs/census", linear_feature_columns=wide, dnn_feature_columns=deep,
            dnn_hidden_units=[100, 50])
        classifier.train(input_fn, steps=1000)

    Args:
        model_dir, linear_feature_columns, linear_optimizer, dnn_feature_columns, dnn_optimizer,
            dnn_hidden_units, dnn_activation_fn, dnn_dropout, config, warm_start_from, batch_norm,
            linear_sparse_combiner, strategy, devices: as for DNNLinearCombinedEstimator.
        n_classes, weight_column, label_vocabulary, loss_reduction: as for DNNClassifier.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        model_dir: Any = None,
        linear_feature_columns: Sequence[Any] | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Sequence[Any] | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Callable | None = tf.nn.relu,
        dnn_dropout: float | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: Any = None,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
        **placement: Any,
    ):
        super().__init__(
            self.class_head(n_classes, label_vocabulary, weight_column, loss_reduction),
            model_dir, linear_feature_columns, linear_optimizer, dnn_feature_columns, dnn_optimizer,
            dnn_hidden_units, dnn_activation_fn, dnn_dropout, config, batch_norm,
            linear_sparse_combiner, warm_start_from, **placement,
        )  # fmt: skip


class DNNLinearCombinedRegressor(DNNLinearCombinedEstimator):
    """A wide and deep regressor, with the squared error.

    Example: as that of DNNLinearCombinedClassifier.

    Args:
        model_dir, linear_feature_columns, linear_optimizer, dnn_feature_columns, dnn_optimizer,
            dnn_hidden_units, dnn_activation_fn, dnn_dropout, config, warm_start_from, batch_norm,
            linear_sparse_combiner, strategy, devices: as for DNNLinearCombinedEstimator.
        label_dimension, weight_column, loss_reduction: as for DNNRegressor.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        model_dir: Any = None,
        linear_feature_columns: Sequence[Any] | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Sequence[Any] | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Callable | None = tf.nn.relu,
        dnn_dropout: float | None = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: Any = None,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
        **placement: Any,
    ):
        super().__init__(
            RegressionHead(label_dimension, weight_column, self.reduction(loss_reduction)),
            model_dir, linear_feature_columns, linear_optimizer, dnn_feature_columns, dnn_optimizer,
            dnn_hidden_units, dnn_activation_fn, dnn_dropout, config, batch_norm,
            linear_sparse_combiner, warm_start_from, **placement,
        )  # fmt: skip
