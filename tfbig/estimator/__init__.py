"""The public names of `tf.estimator`, loaded on first use, so that the import is cheap."""

import importlib
from typing import TYPE_CHECKING, Any

from tfbig._lazy import lazy
from tfbig.compat.gone import gone_estimator
from tfbig.compat.names import FROM_TRAIN
from tfbig.errors import UserError

_NAMES: dict[str, str | None] = {
    "train": "api:train_distributed",
    "Estimator": "estimator.estimator",
    "EstimatorSpec": "programs.model_fn.spec",
    "ModeKeys": "programs.model_fn.spec",
    "RunConfig": "run_config",
    "TrainSpec": "estimator.specs",
    "EvalSpec": "estimator.specs",
    "train_and_evaluate": "estimator.train_evaluate",
    "WarmStartSettings": "estimator.warm_start",
    "Exporter": "estimator.exporters",
    "LatestExporter": "estimator.exporters",
    "FinalExporter": "estimator.exporters",
    "BestExporter": "estimator.exporters",
    "read_eval_metrics": "estimator.eval_events",
    "StopAtStepHook": "estimator.hooks.stop_at_step",
    "CheckpointSaverHook": "estimator.hooks.checkpoint_saver",
    "CheckpointSaverListener": "estimator.hooks.checkpoint_saver",
    "StepCounterHook": "estimator.hooks.step_counter",
    "LoggingTensorHook": "estimator.hooks.logging_tensor",
    "NanTensorHook": "estimator.hooks.nan_tensor",
    "SummarySaverHook": "estimator.hooks.summary_saver",
    "FinalOpsHook": "estimator.hooks.final_ops",
    "make_early_stopping_hook": "estimator.hooks.early_stopping",
    "stop_if_higher_hook": "estimator.hooks.early_stopping",
    "stop_if_lower_hook": "estimator.hooks.early_stopping",
    "stop_if_no_increase_hook": "estimator.hooks.early_stopping",
    "stop_if_no_decrease_hook": "estimator.hooks.early_stopping",
    "Head": "estimator.heads.head",
    "BinaryClassHead": "estimator.heads.classification",
    "MultiClassHead": "estimator.heads.classification",
    "MultiLabelHead": "estimator.heads.multi_label",
    "MultiHead": "estimator.heads.multi_head",
    "RegressionHead": "estimator.heads.regression",
    "PoissonRegressionHead": "estimator.heads.regression",
    "LogisticRegressionHead": "estimator.heads.regression",
    "DNNClassifier": "estimator.canned.dnn",
    "DNNRegressor": "estimator.canned.dnn",
    "DNNEstimator": "estimator.canned.dnn",
    "LinearClassifier": "estimator.canned.linear",
    "LinearRegressor": "estimator.canned.linear",
    "LinearEstimator": "estimator.canned.linear",
    "DNNLinearCombinedClassifier": "estimator.canned.combined",
    "DNNLinearCombinedRegressor": "estimator.canned.combined",
    "DNNLinearCombinedEstimator": "estimator.canned.combined",
    "BaselineClassifier": "estimator.canned.baseline",
    "BaselineRegressor": "estimator.canned.baseline",
    "BaselineEstimator": "estimator.canned.baseline",
    "add_metrics": "estimator.add_metrics",
    "classifier_parse_example_spec": "estimator.parse_specs",
    "regressor_parse_example_spec": "estimator.parse_specs",
    "experimental": None,
    "export": None,
    "inputs": None,
    "tpu": None,
}

__all__ = [*_NAMES, *FROM_TRAIN]

if TYPE_CHECKING:
    from tensorflow.compat.v1.train import (
        FeedFnHook as FeedFnHook,
        GlobalStepWaiterHook as GlobalStepWaiterHook,
        NanLossDuringTrainingError as NanLossDuringTrainingError,
        ProfilerHook as ProfilerHook,
        SecondOrStepTimer as SecondOrStepTimer,
        SessionRunArgs as SessionRunArgs,
        SessionRunContext as SessionRunContext,
        SessionRunHook as SessionRunHook,
        SessionRunValues as SessionRunValues,
        VocabInfo as VocabInfo,
    )

    from tfbig.api import train_distributed
    from tfbig.estimator import (
        experimental as experimental,
        export as export,
        inputs as inputs,
        tpu as tpu,
    )
    from tfbig.estimator.add_metrics import (
        add_metrics as add_metrics,
    )
    from tfbig.estimator.canned.baseline import (
        BaselineClassifier as BaselineClassifier,
        BaselineEstimator as BaselineEstimator,
        BaselineRegressor as BaselineRegressor,
    )
    from tfbig.estimator.canned.combined import (
        DNNLinearCombinedClassifier as DNNLinearCombinedClassifier,
        DNNLinearCombinedEstimator as DNNLinearCombinedEstimator,
        DNNLinearCombinedRegressor as DNNLinearCombinedRegressor,
    )
    from tfbig.estimator.canned.dnn import (
        DNNClassifier as DNNClassifier,
        DNNEstimator as DNNEstimator,
        DNNRegressor as DNNRegressor,
    )
    from tfbig.estimator.canned.linear import (
        LinearClassifier as LinearClassifier,
        LinearEstimator as LinearEstimator,
        LinearRegressor as LinearRegressor,
    )
    from tfbig.estimator.estimator import Estimator as Estimator
    from tfbig.estimator.eval_events import read_eval_metrics as read_eval_metrics
    from tfbig.estimator.exporters import (
        BestExporter as BestExporter,
        Exporter as Exporter,
        FinalExporter as FinalExporter,
        LatestExporter as LatestExporter,
    )
    from tfbig.estimator.heads.classification import (
        BinaryClassHead as BinaryClassHead,
        MultiClassHead as MultiClassHead,
    )
    from tfbig.estimator.heads.head import (
        Head as Head,
    )
    from tfbig.estimator.heads.multi_head import (
        MultiHead as MultiHead,
    )
    from tfbig.estimator.heads.multi_label import (
        MultiLabelHead as MultiLabelHead,
    )
    from tfbig.estimator.heads.regression import (
        LogisticRegressionHead as LogisticRegressionHead,
        PoissonRegressionHead as PoissonRegressionHead,
        RegressionHead as RegressionHead,
    )
    from tfbig.estimator.hooks.checkpoint_saver import (
        CheckpointSaverHook as CheckpointSaverHook,
        CheckpointSaverListener as CheckpointSaverListener,
    )
    from tfbig.estimator.hooks.early_stopping import (
        make_early_stopping_hook as make_early_stopping_hook,
        stop_if_higher_hook as stop_if_higher_hook,
        stop_if_lower_hook as stop_if_lower_hook,
        stop_if_no_decrease_hook as stop_if_no_decrease_hook,
        stop_if_no_increase_hook as stop_if_no_increase_hook,
    )
    from tfbig.estimator.hooks.final_ops import FinalOpsHook as FinalOpsHook
    from tfbig.estimator.hooks.logging_tensor import LoggingTensorHook as LoggingTensorHook
    from tfbig.estimator.hooks.nan_tensor import NanTensorHook as NanTensorHook
    from tfbig.estimator.hooks.step_counter import StepCounterHook as StepCounterHook
    from tfbig.estimator.hooks.stop_at_step import StopAtStepHook as StopAtStepHook
    from tfbig.estimator.hooks.summary_saver import SummarySaverHook as SummarySaverHook
    from tfbig.estimator.parse_specs import (
        classifier_parse_example_spec as classifier_parse_example_spec,
        regressor_parse_example_spec as regressor_parse_example_spec,
    )
    from tfbig.estimator.specs import (
        EvalSpec as EvalSpec,
        TrainSpec as TrainSpec,
    )
    from tfbig.estimator.train_evaluate import train_and_evaluate as train_and_evaluate
    from tfbig.estimator.warm_start import WarmStartSettings as WarmStartSettings
    from tfbig.programs.model_fn.spec import (
        EstimatorSpec as EstimatorSpec,
        ModeKeys as ModeKeys,
    )
    from tfbig.run_config import RunConfig as RunConfig

    train = train_distributed
else:
    _load, _listed = lazy(__name__, _NAMES, root="tfbig")

    def __getattr__(name: str) -> Any:
        instead = gone_estimator(name)
        if instead is not None:
            raise UserError(f"tf.estimator.{name} does not exist in tfbig; {instead}.")
        if name in FROM_TRAIN:
            return getattr(importlib.import_module("tensorflow").compat.v1.train, name)
        return _load(name)

    def __dir__() -> list[str]:
        return sorted({*_listed(), *FROM_TRAIN})
