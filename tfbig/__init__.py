"""tfbig: estimator-style training of large models on TensorFlow 2 and Keras 3.

    import tfbig
    result = tfbig.train_distributed(model_fn, input_fn, strategy="mirrored", devices=2)

Importing the package is cheap: every public name is loaded on its first use.
"""

import os
from typing import TYPE_CHECKING

from tfbig import _quiet
from tfbig._lazy import lazy

# INFO chatter of TensorFlow's C++ runtime says nothing a user can act on; warnings stay visible.
# Both must be set before TensorFlow is imported, so that is done here and nowhere else.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
_quiet.when_tensorflow_is_imported()

__version__ = "0.1.0"

_NAMES: dict[str, str | None] = {
    "train_distributed": "api",
    "fine_tune": "api",
    "evaluate": "api",
    "predict": "api",
    "cross_validate": "api",
    "export": "api",
    "CrossValidation": "evaluation.cross_validation",
    "SlicedModel": "training.sliced_model",
    "TrainResult": "training.result",
    "RunConfig": "run_config",
    "Recipe": "finetuning.recipe",
    "Estimator": "estimator.estimator",
    "EstimatorSpec": "programs.model_fn.spec",
    "ModeKeys": "programs.model_fn.spec",
    "TrainSpec": "estimator.specs",
    "EvalSpec": "estimator.specs",
    "train_and_evaluate": "estimator.train_evaluate",
    "LatestExporter": "estimator.exporters",
    "FinalExporter": "estimator.exporters",
    "BestExporter": "estimator.exporters",
    "WarmStartSettings": "estimator.warm_start",
    "stop_if_higher_hook": "estimator.hooks.early_stopping",
    "stop_if_lower_hook": "estimator.hooks.early_stopping",
    "stop_if_no_decrease_hook": "estimator.hooks.early_stopping",
    "stop_if_no_increase_hook": "estimator.hooks.early_stopping",
    "callbacks": None,
    "compat": None,
    "data": None,
    "datasets": None,
    "errors": None,
    "estimator": None,
    "finetuning": None,
    "layers": None,
    "models": None,
}

__all__ = ["__version__", *_NAMES]

if TYPE_CHECKING:
    from tfbig import (
        callbacks as callbacks,
        compat as compat,
        data as data,
        datasets as datasets,
        errors as errors,
        estimator as estimator,
        finetuning as finetuning,
        layers as layers,
        models as models,
    )
    from tfbig.api import (
        cross_validate as cross_validate,
        evaluate as evaluate,
        export as export,
        fine_tune as fine_tune,
        predict as predict,
        train_distributed as train_distributed,
    )
    from tfbig.estimator.estimator import Estimator as Estimator
    from tfbig.estimator.exporters import (
        BestExporter as BestExporter,
        FinalExporter as FinalExporter,
        LatestExporter as LatestExporter,
    )
    from tfbig.estimator.hooks.early_stopping import (
        stop_if_higher_hook as stop_if_higher_hook,
        stop_if_lower_hook as stop_if_lower_hook,
        stop_if_no_decrease_hook as stop_if_no_decrease_hook,
        stop_if_no_increase_hook as stop_if_no_increase_hook,
    )
    from tfbig.estimator.specs import EvalSpec as EvalSpec, TrainSpec as TrainSpec
    from tfbig.estimator.train_evaluate import train_and_evaluate as train_and_evaluate
    from tfbig.estimator.warm_start import WarmStartSettings as WarmStartSettings
    from tfbig.evaluation.cross_validation import CrossValidation as CrossValidation
    from tfbig.finetuning.recipe import Recipe as Recipe
    from tfbig.programs.model_fn.spec import EstimatorSpec as EstimatorSpec, ModeKeys as ModeKeys
    from tfbig.run_config import RunConfig as RunConfig
    from tfbig.training.result import TrainResult as TrainResult
    from tfbig.training.sliced_model import SlicedModel as SlicedModel
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
