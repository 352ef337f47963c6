"""Models that ignore the features: BaselineClassifier, BaselineRegressor, BaselineEstimator."""

from collections.abc import Sequence
from typing import Any

from tfbig.estimator.canned.canned import Canned, check_head, if_training
from tfbig.estimator.canned.networks import baseline_logits
from tfbig.estimator.canned.optimizers import checked_optimizer, make_optimizer
from tfbig.estimator.heads.head import Head
from tfbig.estimator.heads.regression import RegressionHead
from tfbig.programs.model_fn.spec import EstimatorSpec


class BaselineEstimator(Canned):
    """A model that ignores the features: its logits are a bias; with any head.

    Example: `tfbig.estimator.BaselineEstimator(head, "runs/baseline").train(input_fn)`

    Args:
        head: of tfbig.estimator, such as MultiClassHead(3).
        model_dir, config, strategy, devices: as for Estimator.
        optimizer: as for DNNEstimator, but with the learning rate 0.3 for a name.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        head: Head,
        model_dir: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        *,
        weight_column: Any = None,
        **placement: Any,
    ):
        tf1 = self.tf1
        check_head(head)
        chosen = checked_optimizer(optimizer, tf1)

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            logits = baseline_logits(features, head.logits_dimension, weight_column)
            made = if_training(mode, lambda: make_optimizer(chosen, 0.3, tf1))
            return head.create_estimator_spec(features, mode, logits, labels, made)

        super().__init__(model_fn, model_dir, config, **placement)


class BaselineClassifier(BaselineEstimator):
    """A classifier that ignores the features: it learns how frequent the classes are.

    Example: `tfbig.estimator.BaselineClassifier(n_classes=3).train(input_fn)`

    Args:
        model_dir, config, optimizer, strategy, devices: as for BaselineEstimator.
        n_classes, weight_column, label_vocabulary, loss_reduction: as for DNNClassifier.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        loss_reduction: Any = None,
        **placement: Any,
    ):
        head = self.class_head(n_classes, label_vocabulary, weight_column, loss_reduction)
        super().__init__(
            head, model_dir, optimizer, config, weight_column=weight_column, **placement
        )


class BaselineRegressor(BaselineEstimator):
    """A regressor that ignores the features: it learns the mean of the labels.

    Example: `tfbig.estimator.BaselineRegressor().train(input_fn)`

    Args:
        model_dir, config, optimizer, strategy, devices: as for BaselineEstimator.
        label_dimension, weight_column, loss_reduction: as for DNNRegressor.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        loss_reduction: Any = None,
        **placement: Any,
    ):
        head = RegressionHead(label_dimension, weight_column, self.reduction(loss_reduction))
        super().__init__(
            head, model_dir, optimizer, config, weight_column=weight_column, **placement
        )
