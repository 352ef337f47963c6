"""tfbig: estimator-style training of large models on TensorFlow 2 and Keras 3.

    import tfbig
    result = tfbig.train_distributed(model_fn, input_fn, strategy="mirrored", devices=2)

Importing the package is cheap: every public name is loaded on its first use.
"""

import importlib
import os

from tfbig import _quiet

# INFO chatter of TensorFlow's C++ runtime says nothing a user can act on; warnings stay visible.
# Both must be set before TensorFlow is imported, so that is done here and nowhere else.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
_quiet.when_tensorflow_is_imported()

__version__ = "0.1.0"

_PUBLIC = {
    "train_distributed": "tfbig.api",
    "fine_tune": "tfbig.api",
    "evaluate": "tfbig.api",
    "predict": "tfbig.api",
    "cross_validate": "tfbig.api",
    "export": "tfbig.api",
    "CrossValidation": "tfbig.evaluation.cross_validation",
    "TrainResult": "tfbig.training.result",
    "RunConfig": "tfbig.run_config",
    "Recipe": "tfbig.finetuning.recipe",
    "Estimator": "tfbig.estimator.estimator",
    "EstimatorSpec": "tfbig.programs.model_fn.spec",
    "ModeKeys": "tfbig.programs.model_fn.spec",
    "TrainSpec": "tfbig.estimator.specs",
    "EvalSpec": "tfbig.estimator.specs",
    "train_and_evaluate": "tfbig.estimator.train_evaluate",
    "LatestExporter": "tfbig.estimator.exporters",
    "FinalExporter": "tfbig.estimator.exporters",
    "BestExporter": "tfbig.estimator.best_exporter",
    "WarmStartSettings": "tfbig.estimator.warm_start",
    "stop_if_higher_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_lower_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_no_decrease_hook": "tfbig.estimator.hooks.early_stopping",
    "stop_if_no_increase_hook": "tfbig.estimator.hooks.early_stopping",
}
_MODULES = {
    "callbacks": "tfbig.callbacks",
    "compat": "tfbig.compat",
    "data": "tfbig.data",
    "datasets": "tfbig.datasets",
    "errors": "tfbig.errors",
    "estimator": "tfbig.estimator",
    "finetuning": "tfbig.finetuning",
    "layers": "tfbig.layers",
    "models": "tfbig.models",
}

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str):
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'tfbig' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, *_MODULES])
