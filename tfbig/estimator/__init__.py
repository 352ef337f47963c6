"""The public names of `tf.estimator`, loaded on first use, so that the import is cheap."""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

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
    "export": None,
    "inputs": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.api import train_distributed
    from tfbig.estimator import export as export, inputs as inputs
    from tfbig.estimator.estimator import Estimator as Estimator
    from tfbig.estimator.eval_events import read_eval_metrics as read_eval_metrics
    from tfbig.estimator.exporters import (
        BestExporter as BestExporter,
        Exporter as Exporter,
        FinalExporter as FinalExporter,
        LatestExporter as LatestExporter,
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
    from tfbig.estimator.specs import EvalSpec as EvalSpec, TrainSpec as TrainSpec
    from tfbig.estimator.train_evaluate import train_and_evaluate as train_and_evaluate
    from tfbig.estimator.warm_start import WarmStartSettings as WarmStartSettings
    from tfbig.programs.model_fn.spec import EstimatorSpec as EstimatorSpec, ModeKeys as ModeKeys
    from tfbig.run_config import RunConfig as RunConfig

    train = train_distributed
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES, root="tfbig")
