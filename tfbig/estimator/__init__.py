"""The names that estimator code used; importing this module is cheap."""

import importlib
import sys
from typing import Any

_NAMES = {
    "Estimator": "tfbig.estimator.estimator",
    "EstimatorSpec": "tfbig.programs.model_fn.spec",
    "ModeKeys": "tfbig.programs.model_fn.spec",
    "RunConfig": "tfbig.run_config",
    "TrainSpec": "tfbig.estimator.specs",
    "EvalSpec": "tfbig.estimator.specs",
    "train_and_evaluate": "tfbig.estimator.train_evaluate",
    "WarmStartSettings": "tfbig.estimator.warm_start",
    "Exporter": "tfbig.estimator.exporters",
    "LatestExporter": "tfbig.estimator.exporters",
    "FinalExporter": "tfbig.estimator.exporters",
    "BestExporter": "tfbig.estimator.best_exporter",
    "read_eval_metrics": "tfbig.estimator.eval_events",
    "StopAtStepHook": "tfbig.estimator.hooks.stop_at_step",
    "CheckpointSaverHook": "tfbig.estimator.hooks.checkpoint_saver",
    "CheckpointSaverListener": "tfbig.estimator.hooks.checkpoint_saver",
    "StepCounterHook": "tfbig.estimator.hooks.step_counter",
    "LoggingTensorHook": "tfbig.estimator.hooks.logging_tensor",
    "NanTensorHook": "tfbig.estimator.hooks.nan_tensor",
    "SummarySaverHook": "tfbig.estimator.hooks.summary_saver",
    "FinalOpsHook": "tfbig.estimator.hooks.final_ops",
    "make_early_stopping_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_higher_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_lower_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_no_increase_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_no_decrease_hook": "tfbig.estimator.hooks.early_stopping",
}
_MODULES = ("export", "inputs")

__all__ = ["train", *_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name == "train":
        from tfbig.api import train_distributed as value
    elif name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
