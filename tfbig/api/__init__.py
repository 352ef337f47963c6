"""The public functions: train_distributed, fine_tune, evaluate, predict, export and so on."""

from tfbig.api.cross_validation import cross_validate
from tfbig.api.training import fine_tune, train_distributed
from tfbig.api.using import evaluate, export, predict

__all__ = ["cross_validate", "evaluate", "export", "fine_tune", "predict", "train_distributed"]
