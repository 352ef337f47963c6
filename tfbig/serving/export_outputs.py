"""The kinds of outputs of an exported model, under the names that tf.estimator gave them."""

from tfbig.programs.export_output import (
    ClassificationOutput,
    ExportOutput,
    PredictOutput,
    RegressionOutput,
)

__all__ = ["ClassificationOutput", "ExportOutput", "PredictOutput", "RegressionOutput"]
