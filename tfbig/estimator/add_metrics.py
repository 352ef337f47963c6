"""add_metrics: an Estimator with more metrics."""

import inspect
from collections.abc import Callable
from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.estimator import Estimator
from tfbig.programs.model_fn.spec import EstimatorSpec, ModeKeys

_ARGUMENTS = ("features", "labels", "predictions", "config")


def add_metrics(estimator: Estimator, metric_fn: Callable) -> Estimator:
    """Returns an Estimator of the same model_dir whose `evaluate` computes more metrics.

    Example:

        def metric_fn(labels, predictions):
            auc = tf.compat.v1.metrics.auc(labels, predictions["logistic"])
            return {"my_auc": auc}

        estimator = tfbig.estimator.add_metrics(estimator, metric_fn)

    Args:
        estimator: a tfbig.Estimator.
        metric_fn: takes those of features, labels, predictions and config that it needs by name,
            and returns metrics as for EstimatorSpec(eval_metric_ops=). A metric of the same name
            replaces that of the model_fn.

    Raises:
        UserError: metric_fn takes another argument.
    """
    takes = list(inspect.signature(metric_fn).parameters)
    others = [name for name in takes if name not in _ARGUMENTS]
    if others:
        raise UserError(
            f"metric_fn has following not expected args: {others}; it can take {_ARGUMENTS}."
        )

    def model_fn(features: Any, labels: Any, mode: str, config: Any) -> EstimatorSpec:
        spec = estimator.model_fn(features, labels, mode, config)
        if mode != ModeKeys.EVAL:
            return spec
        given = {
            "features": features,
            "labels": labels,
            "predictions": spec.predictions,
            "config": config,
        }
        metrics = metric_fn(**{name: given[name] for name in takes}) or {}
        return spec._replace(eval_metric_ops={**(spec.eval_metric_ops or {}), **metrics})

    return Estimator(
        model_fn,
        estimator.model_dir,
        estimator.config,
        warm_start_from=estimator.warm_start,
        strategy=estimator.strategy,
        devices=estimator.devices,
    )
