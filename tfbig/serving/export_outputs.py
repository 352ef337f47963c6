"""The kinds of outputs of an exported model, under the names that tf.estimator gave them."""

from tfbig.programs.model_fn.export_output import (
    ClassificationOutput,
    ExportOutput,
    PredictOutput,
    RegressionOutput,
)

__all__ = ["ClassificationOutput", "ExportOutput", "PredictOutput", "RegressionOutput"]
